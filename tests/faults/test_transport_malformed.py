"""Bytes that are no request: refused by name, quickly, and without taking memory for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.faults.peers import Peer, Peers, daemon_of
from tests.support.server import Server

MIB = 1024 * 1024
LARGE = 250_000

pack = msgpack.packb


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


def message(**entries: bytes) -> bytes:
    """A map whose values are encoded already; a valid request where nothing else is given."""
    parts = {"v": b"\x01", "id": b"\x01", "method": pack("server.hello"), **entries}
    return bytes([0x80 | len(parts)]) + b"".join(pack(key) + parts[key] for key in parts)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def array(count: int, item: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


def table(*entries: bytes) -> bytes:
    return bytes([0x80 | len(entries) // 2]) + b"".join(entries)


NAN, INFINITY = pack(float("nan")), pack(float("inf"))
NO_UTF8 = b"\xa2\xff\xfe"
EXT = b"\xc7\x03\x05abc"

MALFORMED = {
    "nesting in the root": nested(2000),
    "nesting in params": message(params=nested(2000)),
    "nesting in an unknown key": message(x=nested(2000)),
    "nesting as deep as a frame": message(params=nested(LARGE)),
    "nesting of maps": message(params=b"\x81\xa1a" * 70_000 + b"\xc0"),
    "expansion in the root": array(LARGE, b"\x80"),
    "expansion in params": message(params=array(LARGE, b"\x80")),
    "expansion in a parameter": message(
        method=pack("agent.list"), params=table(pack("states"), array(LARGE, b"\x80"))
    ),
    "expansion in an unknown parameter": message(params=table(pack("x"), array(LARGE, b"\x90"))),
    "expansion in a command": message(
        method=pack("agent.spawn"),
        params=table(pack("spec"), table(pack("command"), array(LARGE, b"\xa0"))),
    ),
    **{
        f"{kind} of 4G {where}": (
            head + b"\xff" * 4 if where == "root" else message(**{where: head + b"\xff" * 4})
        )
        for kind, head in {
            "array": b"\xdd",
            "map": b"\xdf",
            "text": b"\xdb",
            "bytes": b"\xc6",
            "ext": b"\xc9",
        }.items()
        for where in ("root", "id", "params", "idem", "x")
    },
    "ext in the root": EXT,
    "ext as id": message(id=EXT),
    "ext as params": message(params=EXT),
    "ext of no length as params": message(params=b"\xc7\x00\x05"),
    "timestamp as params": message(params=b"\xd6\xff\x00\x00\x00\x00"),
    "trailing byte": message() + b"\x00",
    "trailing message": message() * 2,
    "number as key": table(b"\x01", b"\x01", pack("v"), b"\x01"),
    "bytes as key": table(pack(b"v"), b"\x01"),
    "number as parameter's key": message(params=b"\x81\x01\x02"),
    "duplicate key": message()[:1].replace(b"\x83", b"\x84")
    + message()[1:]
    + pack("method")
    + pack("agent.list"),
    "duplicate parameter": message(
        method=pack("agent.list"),
        params=table(pack("limit"), b"\x01", pack("limit"), b"\x02"),
    ),
    "duplicate in the credit": message(
        credit=table(pack("items"), b"\x01", pack("items"), b"\x02")
    ),
    "duplicate in a parameter": message(
        method=pack("agent.spawn"),
        params=table(
            pack("spec"),
            table(pack("command"), pack(["true"]), pack("command"), pack(["false"])),
        ),
    ),
    "not a number as deadline": message(deadline_s=NAN),
    "infinity as deadline": message(deadline_s=INFINITY),
    "not a number as grace time": message(
        method=pack("agent.stop"), params=table(pack("id"), pack("none"), pack("grace_s"), NAN)
    ),
    "bad utf-8 as method": message(method=NO_UTF8),
    "bad utf-8 as id": message(id=NO_UTF8),
    "bad utf-8 as parameter": message(method=pack("agent.get"), params=table(pack("id"), NO_UTF8)),
    "bad utf-8 as key": message(params=table(NO_UTF8, b"\xc0")),
    "surrogate": message(id=b"\xa3\xed\xa0\x80"),
    "nil": b"\xc0",
    "number": b"\x01",
    "text": pack("server.hello"),
    "bytes": pack(b"server.hello"),
    "list": pack(["server.hello"]),
    "empty map": b"\x80",
    "nothing": b"",
    "reserved byte": b"\xc1",
    "no id": pack({"v": 1, "method": "server.hello"}),
    "no version": pack({"id": 1, "method": "server.hello"}),
    "no method": pack({"v": 1, "id": 1}),
    "true as id": message(id=b"\xc3"),
    "negative id": message(id=b"\xff"),
    "empty id": message(id=b"\xa0"),
    "long id": message(id=pack("x" * 65)),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_fault_21_malformed_bytes_are_an_invalid_argument_within_20_ms(
    shared_server: Server, peers: Peers, payload: bytes
) -> None:
    peer = peers.connect()
    peer.result("server.hello")

    answer, seconds = timed(shared_server, peer, payload)

    assert answer["error"]["code"] == "invalid_argument"
    assert answer["id"] in (1, None)
    assert not re.search("Traceback|Error\\b|descartesd/|msgspec", answer["error"]["message"])
    assert seconds < 0.02


# Unknown keys of an envelope are ignored, whatever they hold: that must be cheap as well.
IGNORED = {
    "expansion to maps": message(x=array(LARGE, b"\x80")),
    "expansion to lists": message(x=array(LARGE, b"\x90")),
    "expansion in credit": message(credit=table(pack("x"), array(LARGE, b"\x80"))),
    "many keys": b"\xde\x7d\x03"
    + message()[1:]
    + b"".join(pack(f"{n:05}") + b"\xc0" for n in range(32_000)),
}


@pytest.mark.parametrize("payload", IGNORED.values(), ids=IGNORED.keys())
def test_fault_21_what_is_ignored_costs_less_than_20_ms(
    shared_server: Server, peers: Peers, payload: bytes
) -> None:
    peer = peers.connect()
    peer.result("server.hello")

    answer, seconds = timed(shared_server, peer, payload)

    assert answer["result"]["protocol"] == 1
    assert seconds < 0.02


def timed(server: Server, peer: Peer, payload: bytes) -> tuple[dict[str, Any], float]:
    """The answer, and the shortest time in three tries the loop was busy until it came."""
    daemon = daemon_of(server)
    times = []
    for _ in range(3):
        begun = busy(daemon.pid)
        peer.socket.send(payload)
        answer = peer.receive()
        times.append(busy(daemon.pid) - begun)
    return answer, min(times)


def busy(pid: int) -> float:
    """Seconds the main thread of a process, its loop, has run so far."""
    # What else the machine does is not counted in it (sched-stats, /proc/<pid>/schedstat).
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_fault_21_malformed_bytes_never_hold_more_than_10_mib(
    shared_server: Server, peers: Peers
) -> None:
    peer = peers.connect()
    peer.result("server.hello")
    daemon = daemon_of(shared_server)
    costs = {}

    for name, payload in {**MALFORMED, **IGNORED}.items():
        reset_peak(daemon.pid)
        before = peak(daemon.pid)
        peer.socket.send(payload)
        peer.receive()
        costs[name] = (peak(daemon.pid) - before) / MIB

    assert {name: cost for name, cost in costs.items() if cost >= 10} == {}


def reset_peak(pid: int) -> None:
    # proc(5): 5 sets the peak to what the process holds now.
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """The most bytes a process has held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
