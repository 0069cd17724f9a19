"""What an operator looks for in the log: what became of agents, and who did it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zmq

from descartesd.errors import PermissionDeniedError
from tests.faults.peers import Peer, keys_of
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.server import Server

Line = dict[str, Any]


def lines(server: Server, **facts: object) -> list[Line]:
    """The lines with these facts."""
    found = (json.loads(line) for line in server.log_text().splitlines() if line.startswith("{"))
    return [line for line in found if facts.items() <= line.items()]


def test_every_state_of_an_agent_is_told_with_its_id(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP, name="a"))
        client.agent.pause(id=agent.id)
        client.agent.resume(id=agent.id)
        client.agent.kill(id=agent.id)
        failing = client.agent.spawn(spec=spec("sh", "-c", "exit 3"))
        client.agent.wait(id=failing.id)

    eventually(lambda: lines(server, event="agent.state", agent=agent.id, state="terminated"))
    told = lines(server, event="agent.state", agent=agent.id)
    states = [line["state"] for line in told]
    assert states == ["running", "paused", "running", "stopping", "terminated"]
    assert {line["level"] for line in told} == {"info"}
    assert {line["agent_name"] for line in told} == {"a"}
    assert (told[-1]["reason"], told[-1]["signal"]) == ("killed", 9)
    (failed,) = eventually(
        lambda: lines(server, event="agent.state", agent=failing.id, state="failed")
    )
    assert (failed["reason"], failed["exit_code"]) == ("exit", 3)


def test_who_changed_what_is_told_with_what_he_calls_it(server: Server) -> None:
    with zmq.Context() as context:
        peer = Peer(context, server.endpoint, keys_of(server.admin), timeout=20)
        try:
            spawn = {"spec": {"command": list(SLEEP)}}
            peer.send("agent.spawn", spawn, trace="build-7", idem="k")
            agent = peer.receive()["result"]
            peer.send("agent.kill", {"id": agent["id"]}, trace="build-7")
            peer.receive()
            peer.send("agent.kill", {"id": "nobody"}, trace="build-8")
            assert peer.receive()["error"]["code"] == "not_found"
            peer.send("agent.list", {}, trace="build-9")
            peer.receive()
        finally:
            peer.socket.close()

    (missed,) = eventually(lambda: lines(server, event="request.done", trace="build-8"))
    spawned, killed = lines(server, event="request.done", trace="build-7")
    assert [line["method"] for line in (spawned, killed)] == ["agent.spawn", "agent.kill"]
    assert {line["agent"] for line in (spawned, killed)} == {agent["id"]}
    assert spawned["identity"] == agent["owner"]
    assert spawned["outcome"] == "ok"
    assert (missed["outcome"], missed["target"]) == ("not_found", "nobody")
    # Whoever reads leaves no line.
    assert lines(server, trace="build-9") == []


def test_who_was_refused_is_told_once_a_second(server: Server) -> None:
    profile = server.issue("olga", "observer")
    with server.client(profile) as client:
        for _ in range(20):
            with pytest.raises(PermissionDeniedError):
                client.agent.spawn(spec=spec(*SLEEP))

    told = eventually(lambda: lines(server, event="request.refused"))
    assert len(told) < 10
    assert told[0]["method"] == "agent.spawn"
    assert told[0]["code"] == "permission_denied"
    assert told[0]["identity"].startswith("key:SHA256:")
    assert told[0]["level"] == "warning"


def test_what_is_typed_is_told_to_who_asks_for_it_only(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec("cat", stdin="pipe"))
        client.agent.write(id=agent.id, data=b"secret\n")
        client.agent.kill(id=agent.id)

    eventually(lambda: lines(server, event="request.done", method="agent.kill"))
    assert lines(server, event="request.done", method="agent.write") == []
    assert "secret" not in server.log_text()
