"""Peers that hold a certificate and mean harm: routing ids, and messages without end."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from tests.faults.inprocess import Front
from tests.faults.peers import Keys, Peer, Peers, daemon_of, keys_of, logged, request
from tests.support.eventually import eventually
from tests.support.server import Server


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


@pytest.fixture(scope="module")
def alice(shared_server: Server) -> Keys:
    return keys_of(shared_server.issue("alice", "operator"))


@pytest.fixture(scope="module")
def mallory(shared_server: Server) -> Keys:
    # Nobody but an administrator may connect as often as some of these attacks need.
    return keys_of(shared_server.issue("mallory", "admin"))


def name_of(answer: dict[str, object]) -> object:
    result = answer["result"]
    assert isinstance(result, dict)
    return result["identity"]["name"]


def test_fault_17_a_taken_routing_id_gets_no_reply_of_its_owner(
    peers: Peers, alice: Keys, mallory: Keys
) -> None:
    owner = peers.connect(alice, routing_id=b"agent-7")
    assert name_of(owner.ask("server.hello")) == "alice"
    squatter = peers.connect(mallory, routing_id=b"agent-7", timeout=0.3)
    for number in range(20):
        squatter.send("server.hello", id=1000 + number)
    # A connection of its own proves that the squatter's has had its time.
    peers.connect(mallory).result("server.hello")

    answers = [owner.ask("server.hello", id=number) for number in range(50)]

    assert [answer["id"] for answer in answers] == list(range(50))
    assert {name_of(answer) for answer in answers} == {"alice"}
    with pytest.raises(zmq.Again):
        squatter.receive()


def test_fault_17_a_taken_routing_id_does_not_end_the_streams_of_its_owner(
    peers: Peers, alice: Keys, mallory: Keys
) -> None:
    owner = peers.connect(alice, routing_id=b"watcher")
    agent = owner.result("agent.spawn", {"spec": {"command": ["cat"], "stdin": "pipe"}})["id"]
    assert owner.ask("agent.follow", {"id": agent}, id="f")["stream"]

    squatter = peers.connect(mallory, routing_id=b"watcher", timeout=0.2)
    squatter.send("stream.cancel", {"stream": "f"})
    with pytest.raises(zmq.Again):
        squatter.receive()
    squatter.close()
    anonymous = peers.connect(mallory)
    assert anonymous.refusal("stream.cancel", {"stream": "f"}) == "not_found"

    owner.send("agent.write", {"id": agent, "data": b"still here\n"}, id=2)
    messages = [owner.receive(), owner.receive()]
    assert {"still here\n"} == {m["item"]["data"].decode() for m in messages if "item" in m}
    owner.send("agent.kill", {"id": agent}, id=3)
    eventually(lambda: owner.receive()["id"] == 3)


# Routing ids a process is known to begin with.
WELL_KNOWN = (0x00E43C9869, 0x00F4B0DC51, 0x002AE8944A)


def test_fault_18_two_connections(
    shared_server: Server, peers: Peers, alice: Keys, mallory: Keys
) -> None:
    """A client whose two connections choose and are given the same routing id leaves the daemon
    serving.
    """
    served = peers.connect(alice)
    served.result("server.hello")

    for first in WELL_KNOWN:
        chosen = [peers.connect(mallory, routing_id=chosen_id(first + 5 * n)) for n in range(24)]
        answered(chosen, within=0.1)
        given = [peers.connect(mallory) for _ in range(16)]
        assert answered(given) == 16
        for peer in chosen + given:
            peer.close()

    assert name_of(served.ask("server.hello")) == "alice"
    assert daemon_of(shared_server).is_running()


def test_fault_18_two_connections_by_guessing(
    shared_server: Server, peers: Peers, alice: Keys, mallory: Keys
) -> None:
    """A client that goes on guessing the routing id its next connection is given leaves the daemon
    serving.
    """
    served = peers.connect(alice)
    served.result("server.hello")

    for number in range(45):
        guess = WELL_KNOWN[number % 3] + 10 + number // 3 * 12
        peers.connect(mallory, routing_id=chosen_id(guess)).send("server.hello")
        assert answered([peers.connect(mallory)]) == 1

    assert name_of(served.ask("server.hello")) == "alice"
    assert daemon_of(shared_server).is_running()


def chosen_id(number: int) -> bytes:
    return b"\0" + (number % (1 << 32)).to_bytes(4, "big")


def answered(peers: list[Peer], within: float = 2.0) -> int:
    """How many of them are answered, all asking at once."""
    for peer in peers:
        peer.send("server.hello")
    deadline = time.monotonic() + within
    count = 0
    for peer in peers:
        if peer.socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            count += name_of(peer.receive()) == "mallory"
    return count


@pytest.mark.parametrize("frames", [4, 100, 10_000])
def test_fault_19_a_message_of_too_many_frames_is_dropped_and_the_next_is_served(
    peers: Peers, mallory: Keys, frames: int
) -> None:
    sender = peers.connect(mallory)

    sender.socket.send_multipart([request("server.hello", id=number) for number in range(frames)])
    sender.socket.send_multipart([b"", request("server.hello", id="second"), b"x"])
    sender.send("server.hello", id="last")

    assert sender.receive()["id"] == "last"


def test_fault_19_dropped_messages_are_counted_by_sender_in_one_log_line_a_second(
    shared_server: Server, peers: Peers, mallory: Keys
) -> None:
    sender = peers.connect(mallory)
    identity = sender.result("server.hello")["identity"]["id"]
    before, lines = dropped(shared_server), len(logged(shared_server, TOO_MANY))
    begun = time.monotonic()

    for _ in range(200):
        sender.socket.send_multipart([b"x"] * 4)

    eventually(lambda: dropped(shared_server) - before >= 200, timeout=3)
    last = logged(shared_server, TOO_MANY)[-1]
    assert last["counts"].keys() == {identity}
    assert len(logged(shared_server, TOO_MANY)) - lines <= time.monotonic() - begun + 1


TOO_MANY = "message.too_many_frames"


def dropped(server: Server) -> int:
    """Messages of too many frames, as the log has counted them so far."""
    return sum(sum(entry["counts"].values()) for entry in logged(server, "message.too_many_frames"))


FLOOD = """
import sys, zmq, msgpack
endpoint, server, public, secret, count = sys.argv[1:]
context = zmq.Context()
sock = context.socket(zmq.DEALER)
sock.linger = 0
sock.rcvtimeo = 10_000
sock.curve_serverkey, sock.curve_publickey = server.encode(), public.encode()
sock.curve_secretkey = secret.encode()
sock.connect(endpoint)
request = msgpack.packb({"v": 1, "id": 1, "method": "server.hello"})
sock.send(request)
sock.recv()
for _ in range(int(count)):
    sock.send(b"", zmq.SNDMORE)
sock.send(b"")
sock.send(request)
sock.recv()
sock.close()
context.term()
"""


def flood(endpoint: str, keys: Keys) -> subprocess.Popen[bytes]:
    """A process that sends a message of a million frames and waits for the answer to the next."""
    words = [key.decode() for key in keys]
    return subprocess.Popen([sys.executable, "-c", FLOOD, endpoint, *words, "1000000"])


def test_fault_19_beside_a_message_of_a_million_frames_others_are_served(
    shared_server: Server, peers: Peers, mallory: Keys
) -> None:
    other = peers.connect(timeout=5)
    other.result("server.hello")
    counted = dropped(shared_server)
    times = []
    pause = threading.Event()

    with flood(shared_server.endpoint, mallory) as sender:
        while sender.poll() is None:
            begun = time.monotonic()
            other.result("server.hello")
            times.append(time.monotonic() - begun)
            pause.wait(0.002)
        assert sender.returncode == 0

    assert statistics.median(times) < 0.01
    eventually(lambda: dropped(shared_server) > counted, timeout=2.5)


def test_fault_19_a_message_of_a_million_frames_stalls_the_loop_less_than_50_ms() -> None:
    with Front(lambda _address, _key: "key:mallory") as front:
        keys = Keys(front.public, *zmq.curve_keypair())
        turns = Turns(front.loop)
        front.run(turns.note)

        with flood(front.endpoint, keys) as sender:
            assert sender.wait(timeout=15) == 0

        front.run(turns.stop)
        assert front.router.traffic.dropped == 1
    assert turns.count > 100
    assert turns.longest < 0.05


class Turns:
    """How long a loop works at most before it comes round to what else is due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._worked = 0.0
        self.longest = 0.0
        self.count = 0

    def note(self) -> None:
        # The thread's own time: what else the machine does is not counted in it.
        worked = time.thread_time()
        if self._timer is not None:
            self.longest = max(self.longest, worked - self._worked)
        self._worked = worked
        self._timer = self._loop.call_later(0.002, self.note)
        self.count += 1

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
