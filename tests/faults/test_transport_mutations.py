"""Handshakes and requests with a few bits changed: nothing is delivered, nothing breaks.

Seeded: what fails is found again by its number. The ordinary suite tries some, `make test-slow`
ten thousand of each.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import msgpack
import pytest
import zmq

from descartesd.errors import ERRORS
from descartesd.wire.methods import METHODS
from tests.faults.peers import Peers, daemon_of, keys_of, request, settled_rss, unknown_keys
from tests.support.rawcurve import RawCurve, RawKeys, RefusedError, properties
from tests.support.server import Server

MIB = 1024 * 1024
SOME, MANY = 500, 10_000
_LONG = [pytest.mark.slow, pytest.mark.timeout(300)]
each_amount = pytest.mark.parametrize("count", [SOME, pytest.param(MANY, marks=_LONG)])


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same with bits flipped, bytes lost, doubled or put in; never the same."""
    changed = bytearray(data)
    while bytes(changed) == data:
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0 if changed:
                for _ in range(chance.randint(1, 8)):
                    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            case 1:
                del changed[place : place + chance.randint(1, 16)]
            case 2:
                changed[place:place] = chance.randbytes(chance.randint(1, 16))
            case 3:
                changed[place:place] = changed[place : place + chance.randint(1, 16)]
            case _:
                del changed[place:]
    return bytes(changed)


class MutatedCurve(RawCurve):
    """Changes what it sends at one step of the handshake."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # as RawCurve's own
        self.steps_left = self.kept = 0
        self.chance = random.Random(0)

    def send_bytes(self, data: bytes) -> bytes:
        self.steps_left -= 1
        if self.steps_left == 0:
            data = data[: self.kept] + mutated(data[self.kept :], self.chance)
        return super().send_bytes(data)


def try_to_enter(
    server: Server, stranger: tuple[bytes, RawKeys], known: tuple[bytes, RawKeys], seed: int
) -> str:
    """A handshake that goes wrong at one step, and a request all the same; what came of it.

    Somebody who is let in has only what proves his key changed, behind the flags of its frame:
    some of the rest means nothing.
    """
    chance = random.Random(seed)
    keys, first_step, kept = (known, 3, 1) if seed % 2 else (stranger, 1, 0)
    with MutatedCurve.connect(server.endpoint, *keys, timeout=0.02) as peer:
        assert isinstance(peer, MutatedCurve)
        peer.kept = kept
        peer.chance, peer.steps_left = chance, chance.randint(first_step, 3)
        try:
            peer.handshake(properties(b"DEALER", b"", (b"X-Seed", b"%d" % seed)))
            peer.send(request("server.hello"))
            return "answered" if peer.receive() else "nothing"
        except RefusedError:
            return "refused"
        except TimeoutError:
            return "left waiting"
        except (ConnectionError, ValueError, IndexError):
            return "cut"


@each_amount
def test_fault_09_mutated_handshakes_deliver_nothing(shared_server: Server, count: int) -> None:
    stranger, known = unknown_keys(shared_server).raw, keys_of(shared_server.admin).raw
    before = settled_rss(shared_server)
    asked = requests_so_far(shared_server)

    ends = Counter(try_to_enter(shared_server, stranger, known, seed) for seed in range(count))

    assert ends["answered"] == 0, ends
    assert ends["cut"] + ends["refused"] > count / 4, ends
    assert requests_so_far(shared_server) == asked + 1
    assert settled_rss(shared_server) - before < 16 * MIB


@each_amount
def test_fault_09_mutated_messages_of_an_open_connection_are_not_delivered(
    shared_server: Server, count: int
) -> None:
    keys = keys_of(shared_server.admin).raw
    before = settled_rss(shared_server)
    asked = requests_so_far(shared_server)
    ends: Counter[str] = Counter()

    for seed in range(count):
        chance = random.Random(seed)
        with RawCurve.connect(shared_server.endpoint, *keys) as peer:
            peer.handshake()
            sealed = peer.sealed(request("server.hello"))
            changed = sealed
            while changed == sealed:
                # The head is a length: with another one the server may wait for what never comes.
                changed = sealed[:2] + mutated(sealed[2:], chance)[: len(sealed) - 2]
            peer.send_bytes(changed)
            ends["cut" if peer.is_closed_within(0.02) else "left waiting"] += 1

    assert ends["cut"] > count / 4, ends
    assert requests_so_far(shared_server) == asked + 1
    assert settled_rss(shared_server) - before < 16 * MIB


def requests_so_far(server: Server) -> int:
    """Everything the server has taken for a request, this question included."""
    with Peers(server) as peers:
        found: int = peers.connect().result("server.stats")["requests"]
        return found


# No change of them may find an agent, a certificate or a path that is there.
NOTHING = "zzzz0000zzzz0000zzzz"
FILLED: dict[str, Callable[[], object]] = {
    "id": lambda: NOTHING,
    "ids": lambda: [NOTHING],
    "spec": lambda: {"command": ["/nonexistent/program", "argument"], "env": {"A": "b"}},
    "specs": lambda: [{"command": ["/nonexistent/program"], "labels": {"a": "b"}}],
    "verb": lambda: "kill",
    "signal": lambda: "TERM",
    "data": lambda: b"data",
    "stream": lambda: "stdout",
    "name": lambda: "nobody",
    "rows": lambda: 24,
    "cols": lambda: 80,
    "text": lambda: "text",
    "allow": lambda: True,
    "limit": lambda: 10,
    "labels": lambda: {"a": "b"},
    "states": lambda: ["running"],
}
# What a changed bit could make true: the server drained, a key certified, a stream without end.
LEFT_OUT = ("server.", "cert.", "event.follow", "cluster.", "audit.")


def requests() -> list[bytes]:
    """A request for each method, with whatever it takes."""
    found = []
    for name, method in METHODS.items():
        if name.startswith(LEFT_OUT):
            continue
        fields = method.request.__struct_fields__
        params = {field: FILLED[field]() for field in fields if field in FILLED}
        found.append(
            request(name, params, id=7, idem="key", deadline_s=5.0, credit={"items": 1, "bytes": 9})
        )
    return found


@pytest.fixture
def observers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


@each_amount
def test_fault_21_each_mutated_request_gets_one_answer_and_breaks_nothing(
    shared_server: Server, observers: Peers, count: int
) -> None:
    peer = observers.connect(timeout=5)
    bases = requests()
    before = settled_rss(shared_server)
    codes: Counter[str] = Counter()

    for seed in range(count):
        chance = random.Random(seed)
        payload = mutated(chance.choice(bases), chance)
        peer.socket.send(payload)
        answer = msgpack.unpackb(peer.socket.recv())
        codes[answer["error"]["code"] if "error" in answer else "answered"] += 1

    with pytest.raises(zmq.Again):
        peer.socket.recv(zmq.NOBLOCK)
    assert codes["internal"] == 0, codes
    assert set(codes) <= {*ERRORS, "answered"}
    assert codes["invalid_argument"] > count / 3, codes
    assert daemon_of(shared_server).is_running()
    assert peer.result("server.health")["status"] == "ok"
    assert settled_rss(shared_server) - before < 32 * MIB
    assert not peer.result("agent.list")["agents"]
