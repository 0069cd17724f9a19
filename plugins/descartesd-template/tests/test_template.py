"""The plugin by itself, and in a real server."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from descartesd_template import Ended, Plugin, Settings

from descartesd.api import ActionContext, AgentSpec, NotFoundError
from descartesd.client import Client
from descartesd.errors import InvalidArgumentError

CONTEXT = ActionContext(caller="uid:0", role="admin", agent=None, log=logging.getLogger("test"))


def test_nothing_is_counted_in_the_beginning() -> None:
    plugin = Plugin(Settings())
    (metric,) = plugin.register_metrics()

    assert plugin.ended(CONTEXT, Ended()) == {}
    assert metric.read() == []


def test_label_nobody_has_is_refused() -> None:
    with pytest.raises(NotFoundError, match="team=blue has ended"):
        Plugin(Settings()).ended(CONTEXT, Ended(value="blue"))


def test_agents_of_a_server_are_counted(client: Client) -> None:
    for code, squad in ((0, "red"), (1, "red"), (1, "green")):
        spec = AgentSpec(command=["sh", "-c", f"exit {code}"], labels={"squad": squad})
        client.agent.wait(id=client.agent.spawn(spec=spec).id)

    # A fact comes a moment after the answer.
    while sum(ended(client).values()) < 3:
        assert client.server.health().status == "ok"
    assert ended(client) == {"completed": 1, "failed": 2}
    assert ended(client, value="red") == {"completed": 1, "failed": 1}


def test_parameter_that_is_unknown_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="vale"):
        ended(client, vale="red")


def test_server_has_the_plugin_and_no_complaint(client: Client) -> None:
    found = {each.name: each for each in client.plugin.list().plugins}["template"]

    assert found.actions == ["template.ended"]
    assert found.metrics == ["template_agents_ended_total"]
    assert (found.state, found.errors) == ("loaded", 0)


def ended(client: Client, **params: str) -> dict[str, Any]:
    result: dict[str, Any] = client.action.run(name="template.ended", params=params).result
    return result
