"""Fault 28: a client that asks and asks and never reads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgpack
import psutil
import pytest
import zmq

from descartesd.client import Client
from tests.faults.peers import daemon_of, keys_of, logged, request
from tests.support.agents import left_empty, sh, until_state
from tests.support.eventually import eventually
from tests.support.server import Server

MIB = 1 << 20
DROPPED = "the answer was dropped"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as made, left_empty(made):
        yield made


@pytest.fixture
def agent_id(client: Client) -> str:
    """An agent that has written 3 MB."""
    agent = client.agent.spawn(spec=sh("head -c 3000000 /dev/zero"))
    return until_state(client, agent.id, "completed").id


@pytest.fixture
def silent(server: Server) -> Iterator[zmq.Socket[bytes]]:
    """A socket that takes in no more than it has to while nobody reads it."""
    keys = keys_of(server.admin)
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.rcvhwm = 1
        sock.sndhwm = 0
        sock.rcvtimeo = 3000
        sock.curve_serverkey = keys.server
        sock.curve_publickey, sock.curve_secretkey = keys.public, keys.secret
        sock.connect(server.endpoint)
        yield sock


def slowest_in_a_hundred(client: Client, agent_id: str) -> float:
    """The 99th percentile of 3000 requests in seconds."""
    took = []
    for _ in range(3000):
        began = time.perf_counter()
        client.agent.get(id=agent_id)
        took.append(time.perf_counter() - began)
    return sorted(took)[int(len(took) * 0.99)]


def answers(sock: zmq.Socket[bytes]) -> dict[Any, dict[str, Any]]:
    """Every answer that comes until nothing more does, by id; each id once.

    A stream may have items before it, such as the heartbeats of the server.
    """
    found: dict[Any, dict[str, Any]] = {}
    while True:
        try:
            message = msgpack.unpackb(sock.recv())
        except zmq.Again:
            return found
        if "item" in message:
            continue
        assert message["id"] not in found
        found[message["id"]] = message


def kinds(found: dict[Any, dict[str, Any]]) -> Counter[str]:
    return Counter(
        "result" if "result" in answer else answer["error"]["message"].partition(" as ")[0]
        for answer in found.values()
    )


@pytest.mark.parametrize(
    ("method", "params", "count"),
    [
        ("agent.get", {}, 100_000),
        ("agent.output", {"limit": MIB}, 3000),
        ("server.methods", {}, 3000),
    ],
)
def test_fault_28_who_never_reads_costs_little_and_is_served_again_when_it_does(
    server: Server,
    client: Client,
    agent_id: str,
    silent: zmq.Socket[bytes],
    method: str,
    params: dict[str, Any],
    count: int,
) -> None:
    if method.startswith("agent."):
        params = {"id": agent_id, **params}
    idle_s = slowest_in_a_hundred(client, agent_id)
    daemon = daemon_of(server)
    before = daemon.memory_info().rss
    for number in range(count):
        silent.send(request(method, params, id=number))
    beside_s = slowest_in_a_hundred(client, agent_id)

    grown = most_memory(daemon, for_s=1.0) - before
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB"
    assert beside_s < max(3 * idle_s, 0.01)

    told = kinds(answers(silent))
    assert told["result"] > 0
    assert told.total() >= 1000
    assert set(told) <= {"result", DROPPED, "1000 requests are open on this connection"}
    silent.send(request("agent.get", {"id": agent_id}, id="again"))
    assert msgpack.unpackb(silent.recv())["result"]["id"] == agent_id


@pytest.mark.parametrize(
    ("method", "params", "count"),
    [
        ("action.run", {"name": "echo", "params": {"text": "x" * 240_000}}, 250),
        (
            "batch.run",
            {"verb": "get", "ids": [f"none-{n:05}-of-these" for n in range(10_000)]},
            150,
        ),
    ],
)
def test_fault_28_large_requests_nobody_reads_cost_little(
    server: Server, silent: zmq.Socket[bytes], method: str, params: dict[str, Any], count: int
) -> None:
    daemon = daemon_of(server)
    before = daemon.memory_info().rss
    for number in range(count):
        silent.send(request(method, params, id=number))

    grown = most_memory(daemon, for_s=2.0) - before
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB"
    told = kinds(answers(silent))
    assert told["result"] > 0
    assert told.total() == count
    assert set(told) <= {"result", "the requests open on this connection have 4 MiB together"}


def most_memory(daemon: psutil.Process, *, for_s: float) -> int:
    """The most bytes a process holds within that time."""
    seen = [0]
    end = time.monotonic() + for_s

    def is_over() -> bool:
        seen.append(int(daemon.memory_info().rss))
        return time.monotonic() > end

    eventually(is_over, timeout=for_s + 5, step=0.02)
    return max(seen)


def test_fault_28_who_asks_for_much_at_once_and_reads_gets_all_of_it(
    agent_id: str, silent: zmq.Socket[bytes]
) -> None:
    for number in range(200):
        silent.send(request("agent.output", {"id": agent_id, "limit": MIB}, id=number))

    found = [msgpack.unpackb(silent.recv()) for _ in range(200)]

    assert {message["id"] for message in found} == set(range(200))
    assert all(len(message["result"]["data"]) == MIB for message in found)


def test_fault_28_a_stream_nobody_reads_waits_and_loses_nothing(
    server: Server, agent_id: str, silent: zmq.Socket[bytes]
) -> None:
    daemon = daemon_of(server)
    before = daemon.memory_info().rss
    for number in range(100):
        follow = request(
            "agent.follow",
            {"id": agent_id},
            id=number,
            credit={"items": 1_000_000, "bytes": 1 << 30},
        )
        silent.send(follow)

    grown = most_memory(daemon, for_s=2.0) - before
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB"
    got: Counter[int] = Counter()
    open_streams = 100
    while open_streams:
        message = msgpack.unpackb(silent.recv())
        got[message["id"]] += len(message.get("item", {}).get("data", b""))
        open_streams -= "end" in message
    assert set(got.values()) == {3_000_000}


def test_fault_28_streams_of_who_is_shed_end_and_are_told(
    server: Server, client: Client, agent_id: str, silent: zmq.Socket[bytes]
) -> None:
    silent.send(request("event.follow", {}, id="events"))
    opened = msgpack.unpackb(silent.recv())
    assert opened["stream"]
    for number in range(100_000):
        silent.send(request("agent.get", {"id": agent_id}, id=number))
    eventually(lambda: client.server.stats().peers_shed == 1, timeout=10)
    assert client.server.stats().streams == 0
    assert len(logged(server, "peer.shed")) == 1

    found = answers(silent)

    assert kinds(found)[DROPPED] >= 1000
    assert DROPPED in found["events"]["error"]["message"]
    assert found["events"]["error"]["code"] == "resource_exhausted"
