"""Strangers in numbers: half-open connections, no descriptor left, one HELLO for ever."""

from __future__ import annotations

import os
import resource
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.faults.peers import Peer, Peers, daemon_of, logged, unknown_keys
from tests.faults.strangers import greeting
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.rawcurve import RawCurve
from tests.support.server import Server, running

HALF_OPEN = 2000
HANDSHAKE_S = 3.0


@contextmanager
def enough_descriptors() -> Iterator[None]:
    """Let this process hold all those connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def half_open(server: Server, count: int, strangers: ExitStack) -> list[socket.socket]:
    """Connections on which nothing more than a greeting is said."""
    made = []
    for _ in range(count):
        stranger = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        strangers.callback(stranger.close)
        stranger.sendall(greeting())
        made.append(stranger)
    return made


def round_trip(peer: Peer) -> float:
    """Seconds a request takes."""
    begun = time.perf_counter()
    peer.result("server.hello")
    return time.perf_counter() - begun


def median_round_trip(peer: Peer, count: int = 200) -> float:
    return statistics.median(round_trip(peer) for _ in range(count))


def sockets_of(daemon: psutil.Process) -> int:
    """How many connections over tcp it holds."""
    return sum(each.status == psutil.CONN_ESTABLISHED for each in daemon.net_connections("tcp"))


def test_fault_05_two_thousand_half_open_peers_slow_nobody_and_go(server: Server) -> None:
    with enough_descriptors(), Peers(server) as peers, ExitStack() as strangers:
        established = peers.connect()
        established.result("server.hello")
        at_rest = median_round_trip(established)
        before = sockets_of(daemon_of(server))

        made = half_open(server, HALF_OPEN, strangers)
        opened = time.monotonic()
        beside_them = median_round_trip(established)
        first_answers = []
        for _ in range(3):
            begun = time.perf_counter()
            peers.connect().result("server.hello")
            first_answers.append(time.perf_counter() - begun)

        assert beside_them < max(5 * at_rest, 0.002)
        assert min(first_answers) < 0.1
        eventually(
            lambda: sockets_of(daemon_of(server)) <= before + len(first_answers),
            timeout=opened + HANDSHAKE_S + 3 - time.monotonic(),
            step=0.1,
        )
        assert all(closed(stranger) for stranger in made)


def closed(stranger: socket.socket) -> bool:
    """Whether the other side has closed it."""
    try:
        while stranger.recv(65_536):
            continue
    except ConnectionResetError:
        return True
    return True


def test_fault_06_without_a_free_descriptor_it_lives_and_recovers(server: Server) -> None:
    daemon = daemon_of(server)
    with server.client() as client, Peers(server) as peers, ExitStack() as strangers:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        established = peers.connect()
        established.result("server.hello")
        soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir(f"/proc/{daemon.pid}/fd"))
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest + 20, hard))

        half_open(server, 30, strangers)
        opened = time.monotonic()
        eventually(lambda: refused_accepts(server) > 0, timeout=3)

        assert established.result("agent.get", {"id": agent.id})["state"] == "running"
        assert client.agent.pause(id=agent.id).state == "paused"
        assert client.agent.resume(id=agent.id).state == "running"
        # Who was first is closed when the handshake time is over, and who waits then is let in.
        with server.client(wait_for_server_s=12) as newcomer:
            assert newcomer.server.hello().protocol == 1
        assert time.monotonic() - opened < 12
        lines = len(logged(server, "handshake.failed"))
        assert lines <= time.monotonic() - opened + 2
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))


def refused_accepts(server: Server) -> int:
    """Connections it could not take for want of a descriptor, as the log has counted them."""
    return sum(entry["counts"].get("accept", 0) for entry in logged(server, "handshake.failed"))


def knock_for(server: Server, seconds: float, knocks: list[int]) -> None:
    """Open connections and repeat one recorded HELLO on each, without any cryptography."""
    with RawCurve.connect(server.endpoint, *unknown_keys(server).raw) as recorded:
        recorded.greet()
        recorded.read_greeting()
        hello = recorded.hello()
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        while time.monotonic() < until:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as stranger:
                stranger.sendall(greeting() + hello)
                selector.register(stranger, selectors.EVENT_READ)
                selector.select(timeout=0.05)
                selector.unregister(stranger)
            knocks.append(1)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_fault_07_a_flood_of_one_hello_leaves_the_others_served(seconds: float) -> None:
    knocks: list[int] = []
    with running() as server, Peers(server) as peers:
        established = peers.connect()
        established.result("server.hello")
        flood = threading.Thread(target=knock_for, args=(server, seconds, knocks))
        flood.start()
        times = []
        health: list[dict[str, object]] = []
        while flood.is_alive():
            times.append(round_trip(established))
            health.append(established.result("server.health"))
        flood.join()

        assert len(knocks) > 100 * seconds
        # The interpreter of the attacker is this one's: half of each time is spent waiting for it.
        assert statistics.median(times) < 0.05
        assert max(times) < 1.0
        assert {each["status"] for each in health} == {"ok"}
