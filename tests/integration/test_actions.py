"""Custom actions over CURVE."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError, NotFoundError
from tests.support.agents import SLEEP, left_empty, spec
from tests.support.server import Server


def test_builtin_actions_are_listed_and_run(shared_server: Server) -> None:
    with shared_server.client() as client, left_empty(client):
        agent = client.agent.spawn(spec=spec(*SLEEP, name="web", env={"COLOUR": "blue"}))

        listed = {action.name: action for action in client.action.list().actions}
        echoed = client.action.run(name="echo", params={"numbers": [1, 2.5], "data": b"\0"})
        ping = client.action.run(name="ping", agent="web")
        told = client.action.run(name="get_env", agent=agent.id)

    assert {action.plugin for action in listed.values()} == {"builtin"}
    assert [name for name, action in listed.items() if action.needs_agent] == ["get_env"]
    assert (echoed.action, echoed.agent_id) == ("echo", None)
    assert echoed.result == {"numbers": [1, 2.5], "data": b"\0"}
    assert (ping.result, ping.agent_id) == ("pong", agent.id)
    assert told.result["env"] == ["COLOUR"]
    assert (told.result["status"], told.result["name"]) == ("running", "web")


def test_a_wrong_action_is_refused(shared_server: Server) -> None:
    with shared_server.client() as client:
        with pytest.raises(NotFoundError, match="no action 'custom_test'"):
            client.action.run(name="custom_test", params={"action": "test"})
        with pytest.raises(InvalidArgumentError, match="name: expected a lower-case letter"):
            client.action.run(name="Echo")
        with pytest.raises(InvalidArgumentError, match="unknown key 'x'"):
            client.action.run(name="ping", params={"x": 1})


def test_the_same_key_is_answered_with_the_same_result(shared_server: Server) -> None:
    with shared_server.client() as client, left_empty(client):
        agent = client.agent.spawn(spec=spec(*SLEEP))
        first = client.action.run(name="get_env", agent=agent.id, idem="one-key-for-both")
        client.agent.kill(id=agent.id)

        again = client.action.run(name="get_env", agent=agent.id, idem="one-key-for-both")

    assert again == first


def test_an_observer_may_run_what_only_looks(shared_server: Server, tmp_path: Path) -> None:
    with shared_server.client(shared_server.issue("watcher", "observer")) as client:
        assert client.action.run(name="ping").result == "pong"
