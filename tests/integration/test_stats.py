"""Statistics, health and draining, over CURVE."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from descartesd.client import Client
from descartesd.errors import NotFoundError, PermissionDeniedError, UnavailableError
from tests.faults.peers import Peers
from tests.support.agents import SLEEP, left_empty, spec
from tests.support.eventually import eventually
from tests.support.server import Server

PARTS = {
    "audit",
    "registry",
    "revocations",
    "trust_store",
    "keeper",
    "handshake",
    "event_loop",
    "directories",
    "listeners",
    "clock",
    "plugins",
}


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as made, left_empty(made):
        yield made


def test_requests_are_counted_by_method_with_how_long_they_took(client: Client) -> None:
    before = client.server.stats()
    for _ in range(50):
        client.server.hello()
    after = client.server.stats()

    hello = after.methods["server.hello"]
    assert hello.requests - getattr(before.methods.get("server.hello"), "requests", 0) == 50
    assert sum(hello.latency.counts) == hello.requests
    assert len(hello.latency.counts) == len(after.bounds_s) + 1
    assert 0 < hello.latency.p50_s <= hello.latency.p99_s < 1
    assert after.requests == sum(method.requests for method in after.methods.values())
    assert after.bytes_received > before.bytes_received
    assert after.bytes_sent > before.bytes_sent + 50 * 100


def test_refusals_are_counted_by_code(client: Client) -> None:
    for _ in range(3):
        with pytest.raises(NotFoundError):
            client.agent.get(id="nobody")
    stats = client.server.stats()

    assert stats.errors == {"not_found": 3}
    assert (stats.failures, stats.methods["agent.get"].failures) == (3, 3)


def test_what_no_method_takes_is_counted_too(server: Server, client: Client) -> None:
    before = client.server.stats().requests
    with Peers(server) as peers:
        peer = peers.connect()
        peer.socket.send(b"\xc1")
        peer.receive()
        assert peer.refusal("agent.fly") == "unimplemented"
    stats = client.server.stats()

    assert stats.requests == before + 3
    assert stats.errors == {"invalid_argument": 1, "unimplemented": 1}


def test_an_answer_that_waits_takes_until_it_is_sent_and_a_stream_until_it_is_open(
    client: Client,
) -> None:
    agent = client.agent.spawn(spec=spec("sleep", "0.3"))
    with client.agent.follow(id=agent.id) as stream:
        assert client.server.stats().streams == 1
        client.agent.wait(id=agent.id)
        stats = client.server.stats()
        assert list(stream) == []

    assert stats.methods["agent.wait"].latency.sum_s > 0.2
    assert stats.methods["agent.follow"].latency.sum_s < 0.2
    assert sum(stats.methods["agent.follow"].latency.counts) == 1


def test_clients_are_the_connections_that_asked_something(server: Server, client: Client) -> None:
    before = client.server.stats()
    with server.client() as other:
        other.server.hello()
        assert client.server.stats().clients == before.clients + 1
    eventually(lambda: client.server.stats().clients == before.clients)

    assert client.server.stats().clients_seen == before.clients_seen + 1


def test_agents_spawns_and_events_are_counted(client: Client) -> None:
    client.agent.spawn(spec=spec(*SLEEP))
    with pytest.raises(Exception, match="no-such-program"):
        client.agent.spawn(spec=spec("no-such-program"))
    stats = client.server.stats()

    assert (stats.spawns.requested, stats.spawns.succeeded, stats.spawns.failed) == (2, 1, 1)
    assert stats.agents == {"running": 1}
    assert stats.events.first == 1
    assert stats.events.last >= 2


def test_a_draining_server_takes_no_new_agent_and_leaves_the_others(
    server: Server, client: Client
) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))
    ended = client.agent.spawn(spec=spec("true"))
    client.agent.wait(id=ended.id)

    drained = client.server.drain()
    assert (drained.draining, drained.alive) == (True, 1)
    assert client.server.health().draining
    assert client.server.health().status == "ok"
    for start in (lambda: client.agent.spawn(spec=spec("true")), lambda: again(client, ended.id)):
        with pytest.raises(UnavailableError, match="the server is draining") as refusal:
            start()
        assert refusal.value.retryable
    assert client.agent.get(id=agent.id).state == "running"

    drained = client.server.drain(undo=True)
    assert (drained.draining, drained.alive) == (False, 1)
    assert not client.server.health().draining
    again(client, ended.id)


def again(client: Client, agent_id: str) -> None:
    client.agent.respawn(id=agent_id)


def test_only_an_administrator_drains(server: Server, client: Client) -> None:
    with (
        server.client(server.issue("op", "operator")) as operator,
        pytest.raises(PermissionDeniedError),
    ):
        operator.server.drain()
    assert not client.server.health().draining


def test_every_part_is_ok_in_a_server_that_works(client: Client) -> None:
    health = client.server.health()
    assert health.checks == dict.fromkeys(PARTS, "ok")
    assert health.status == "ok"


def test_a_socket_that_was_removed_is_told_and_recorded(server: Server, client: Client) -> None:
    socket = server.directory / "run" / "control.sock"
    away = socket.with_name("away")
    with client.event.follow() as events:
        socket.rename(away)
        degraded = next(event for event in events if event.kind == "health_changed")
        health = client.server.health()
        away.rename(socket)
        well = next(event for event in events if event.kind == "health_changed")

    assert degraded.data == {"status": "degraded", "reasons": health.reasons}
    assert str(socket) in health.checks["listeners"]
    assert well.data == {"status": "ok", "reasons": []}


def test_an_event_loop_that_stood_still_is_told(server: Server, client: Client) -> None:
    assert server.process is not None
    with client.event.follow() as events:
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(AssertionError):
                eventually(lambda: False, timeout=2.5)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        changed = next(event for event in events if event.kind == "health_changed")

    assert "event loop" in changed.data["reasons"][0]
