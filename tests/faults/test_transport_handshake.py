"""Peers that never finish a handshake: strangers on the network, none of whom holds a key."""

from __future__ import annotations

import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.faults.peers import (
    Peers,
    handshake_failures,
    keys_of,
    logged,
    settled_rss,
    unknown_keys,
)
from tests.faults.strangers import FOREIGN, announced, greeting
from tests.support.eventually import eventually
from tests.support.rawcurve import RawCurve
from tests.support.server import Server

MIB = 1024 * 1024
HANDSHAKE_S = 3.0
STALLS = ("silent", "greeting only", "stopped after WELCOME")


@dataclass
class Stalled:
    """Connections on which nothing more is said, and after how long each was closed."""

    opened: float
    connections: dict[str, socket.socket]
    lived: dict[str, float] = field(default_factory=dict)

    def watch(self, stop: threading.Event) -> None:
        with selectors.DefaultSelector() as selector:
            for name, connection in self.connections.items():
                selector.register(connection, selectors.EVENT_READ, name)
            while selector.get_map() and not stop.is_set():
                for key, _ in selector.select(timeout=0.05):
                    if not _read(key.fileobj):
                        self.lived[key.data] = time.monotonic() - self.opened
                        selector.unregister(key.fileobj)


def _read(connection: object) -> bytes:
    assert isinstance(connection, socket.socket)
    try:
        return connection.recv(65_536)
    except ConnectionResetError:
        return b""


@pytest.fixture(scope="module", autouse=True)
def stalled(shared_server: Server) -> Iterator[Stalled]:
    """Stalled from the beginning of the module on, so that no test has to wait for their end."""
    opened = time.monotonic()
    silent = socket.create_connection(("127.0.0.1", shared_server.port))
    greeted = socket.create_connection(("127.0.0.1", shared_server.port))
    greeted.sendall(greeting())
    welcomed = RawCurve.connect(shared_server.endpoint, *unknown_keys(shared_server).raw)
    welcomed.greet()
    welcomed.read_greeting()
    welcomed.hello()
    welcomed.welcome()
    peers = Stalled(opened, dict(zip(STALLS, (silent, greeted, welcomed.connection), strict=True)))
    stop = threading.Event()
    thread = threading.Thread(target=peers.watch, args=(stop,), name="stalled")
    thread.start()
    yield peers
    stop.set()
    thread.join()
    for connection in peers.connections.values():
        connection.close()


def closed_after(port: int, data: bytes) -> float:
    """Seconds from sending this to a new connection until the server has closed it."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as stranger:
        begun = time.monotonic()
        try:
            stranger.sendall(data)
            while stranger.recv(65_536):
                continue
        except (ConnectionResetError, BrokenPipeError):
            pass
        return time.monotonic() - begun


def test_fault_01_others_are_served_beside_silent_peers(
    shared_server: Server, stalled: Stalled
) -> None:
    assert not stalled.lived

    with Peers(shared_server) as peers:
        begun = time.monotonic()
        client = peers.connect()
        assert client.result("server.hello")["protocol"] == 1
        assert time.monotonic() - begun < 0.5
        times = []
        for _ in range(100):
            begun = time.monotonic()
            client.result("server.hello")
            times.append(time.monotonic() - begun)

    assert statistics.median(times) < 0.01


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
def test_fault_03_a_foreign_protocol_is_cut_within_100_ms(
    shared_server: Server, data: bytes
) -> None:
    assert closed_after(shared_server.port, data) < 0.1


def test_fault_03_failed_handshakes_make_one_log_line_a_second(shared_server: Server) -> None:
    lines_before, counted_before = (
        len(logged(shared_server, "handshake.failed")),
        handshake_failures(shared_server)["protocol"],
    )
    begun = time.monotonic()

    for _ in range(100):
        closed_after(shared_server.port, FOREIGN["null"])

    eventually(
        lambda: handshake_failures(shared_server)["protocol"] - counted_before >= 100, timeout=2.5
    )
    assert (
        len(logged(shared_server, "handshake.failed")) - lines_before
        <= time.monotonic() - begun + 1
    )


@pytest.mark.parametrize("size", [512 * MIB, 262_145, 1 << 63], ids=["512M", "one over", "2^63"])
def test_fault_04_an_oversized_frame_is_cut_before_it_is_read(
    shared_server: Server, size: int
) -> None:
    before = settled_rss(shared_server)

    assert closed_after(shared_server.port, greeting() + announced(size) + bytes(4 * MIB)) < 0.5

    assert settled_rss(shared_server) - before < 2 * MIB


def test_fault_04_a_hundred_peers_just_below_the_limit_cost_less_than_64_mib(
    shared_server: Server,
) -> None:
    before = settled_rss(shared_server)
    strangers = []
    try:
        for _ in range(100):
            stranger = socket.create_connection(("127.0.0.1", shared_server.port), timeout=2)
            strangers.append(stranger)
            stranger.sendall(greeting() + announced(262_000) + bytes(261_000))
        held = settled_rss(shared_server) - before
        with Peers(shared_server) as peers:
            assert peers.connect().result("server.hello")["protocol"] == 1
    finally:
        for stranger in strangers:
            stranger.close()

    assert 8 * MIB < held < 64 * MIB


@pytest.mark.parametrize("stall", STALLS)
def test_fault_01_and_02_a_stalled_peer_is_closed_when_the_handshake_time_is_over(
    stalled: Stalled, stall: str
) -> None:
    lived = eventually(lambda: stalled.lived.get(stall, 0.0), timeout=HANDSHAKE_S + 1)

    assert HANDSHAKE_S - 0.1 <= lived <= HANDSHAKE_S + 0.5


def test_fault_01_and_02_handshakes_out_of_time_are_counted(
    shared_server: Server, stalled: Stalled
) -> None:
    eventually(lambda: len(stalled.lived) == len(STALLS), timeout=HANDSHAKE_S + 1)

    eventually(lambda: handshake_failures(shared_server)["timeout"] >= len(STALLS), timeout=2)


def test_an_operators_certificate_finishes_where_a_stranger_stalls(shared_server: Server) -> None:
    keys = keys_of(shared_server.issue("raw", "operator")).raw

    with RawCurve.connect(shared_server.endpoint, *keys) as peer:
        assert (b"Socket-Type", b"ROUTER") in peer.handshake()
