"""A client of another make: nothing but pyzmq and msgpack, and what the protocol page tells."""

from __future__ import annotations

import itertools
import tomllib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from tests.support.server import Server

TIMEOUT_MS = 3000


class Minimal:
    """Sends requests and keeps apart what comes back, by the id it belongs to."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._ids = itertools.count(1)
        self._kept: list[dict[str, Any]] = []

    def send(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        request = {"v": 1, "id": next(self._ids), "method": method, **more}
        if params is not None:
            request["params"] = params
        self.socket.send(msgpack.packb(request))
        return request["id"]

    def next(self, number: Any) -> dict[str, Any]:
        """The next message of this id; those of others are kept for later."""
        for message in self._kept:
            if message["id"] == number:
                self._kept.remove(message)
                return message
        while True:
            received: dict[str, Any] = msgpack.unpackb(self.socket.recv())
            assert received["v"] == 1
            if received["id"] == number:
                return received
            self._kept.append(received)

    def ask(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return self.next(self.send(method, params, **more))

    def result(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        answer = self.ask(method, params, **more)
        assert answer.keys() == {"v", "id", "result"}, answer
        return answer["result"]

    def refusal(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        answer = self.ask(method, params, **more)
        assert answer.keys() == {"v", "id", "error"}, answer
        return answer["error"]

    def spawn(self, script: str, **fields: Any) -> str:
        spec = {"command": ["sh", "-c", script], **fields}
        agent: str = self.result("agent.spawn", {"spec": spec}, idem=uuid.uuid4().hex)["id"]
        return agent


Connect = Callable[[int, str], Minimal]


@pytest.fixture
def connect(shared_server: Server) -> Iterator[Connect]:
    """Makes a client with a socket of one kind over one transport."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int, transport: str) -> Minimal:
        socket = context.socket(kind)
        made.append(socket)
        socket.linger = 0
        socket.rcvtimeo = TIMEOUT_MS
        if transport == "tcp":
            over_tcp(socket, shared_server)
        else:
            over_unix(socket, shared_server)
        return Minimal(socket)

    yield make
    for socket in made:
        socket.close()
    context.term()


def over_tcp(socket: zmq.Socket[bytes], server: Server) -> None:
    """Connect with the keys of a profile."""
    profile = tomllib.loads(server.admin.read_text())
    socket.curve_serverkey = profile["server_keys"][0].encode()
    socket.curve_publickey = profile["public_key"].encode()
    socket.curve_secretkey = profile["secret_key"].encode()
    socket.connect(profile["endpoints"][0])


def over_unix(socket: zmq.Socket[bytes], server: Server) -> None:
    """Connect with a key pair made for this connection."""
    run = server.directory / "run"
    socket.curve_serverkey = (run / "server.pub").read_text().strip().encode()
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(f"ipc://{run}/control.sock")


WAYS = [
    pytest.param((kind, transport), id=f"{name}-{transport}")
    for name, kind in (("dealer", zmq.DEALER), ("req", zmq.REQ))
    for transport in ("tcp", "unix")
]


@pytest.fixture(params=WAYS)
def client(request: pytest.FixtureRequest, connect: Connect) -> Minimal:
    """A client of every kind over every transport."""
    return connect(*request.param)


@pytest.fixture
def dealer(connect: Connect) -> Minimal:
    """A client that can have streams."""
    return connect(zmq.DEALER, "tcp")


def test_hello_introduces_the_server(client: Minimal) -> None:
    hello = client.result("server.hello")

    assert hello["protocol"] == 1
    assert hello["identity"]["role"] == "admin"
    assert hello["identity"]["id"].startswith(("key:SHA256:", "uid:"))
    assert hello["limits"]["max_request_bytes"] == 262_111


def test_an_agent_is_started_waited_for_read_and_removed(client: Minimal) -> None:
    agent = client.spawn("echo out; echo err >&2; exit 3")

    ended = client.result("agent.wait", {"id": agent}, deadline_s=2.0)
    out = client.result("agent.output", {"id": agent})
    err = client.result("agent.output", {"id": agent, "stream": "stderr"})
    client.result("agent.remove", {"id": agent})

    assert (ended["state"], ended["outcome"]["exit_code"]) == ("failed", 3)
    assert (out["data"], err["data"]) == (b"out\n", b"err\n")
    assert client.refusal("agent.get", {"id": agent})["code"] == "not_found"


def test_the_same_key_starts_one_agent(client: Minimal) -> None:
    params = {"spec": {"command": ["true"]}}
    key = uuid.uuid4().hex

    first = client.result("agent.spawn", params, idem=key)
    again = client.result("agent.spawn", params, idem=key)

    assert again == first


def test_a_wait_that_is_too_short_is_told(client: Minimal) -> None:
    agent = client.spawn("sleep 60")

    error = client.refusal("agent.wait", {"id": agent}, deadline_s=0.05)
    client.result("agent.kill", {"id": agent})

    assert error["code"] == "deadline_exceeded"
    assert error["retryable"]


def test_an_unknown_method_is_told(client: Minimal) -> None:
    error = client.refusal("agent.spwan")

    assert error["code"] == "unimplemented"
    assert "agent.spawn" in error["hint"]


def test_malformed_bytes_are_answered_without_an_id(client: Minimal) -> None:
    client.socket.send(b"\xc1")

    answer = msgpack.unpackb(client.socket.recv())

    assert answer["id"] is None
    assert answer["error"]["code"] == "invalid_argument"


def test_the_answer_carries_the_id_as_it_was_sent(client: Minimal) -> None:
    for number in (0, 7, (1 << 64) - 1, "seven", "x" * 64):
        assert client.ask("server.hello", id=number)["id"] == number


def test_the_empty_frame_is_mirrored(connect: Connect) -> None:
    dealer = connect(zmq.DEALER, "unix")
    request = msgpack.packb({"v": 1, "id": 1, "method": "server.hello"})

    dealer.socket.send_multipart([b"", request])
    with_delimiter = dealer.socket.recv_multipart()
    dealer.socket.send(request)
    without = dealer.socket.recv_multipart()

    assert (len(with_delimiter), with_delimiter[0]) == (2, b"")
    assert len(without) == 1


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_output_is_followed_under_credit(connect: Connect, transport: str) -> None:
    dealer = connect(zmq.DEALER, transport)
    agent = dealer.spawn("for n in 1 2 3 4 5; do echo $n; sleep 0.02; done")
    params = {"id": agent, "streams": ["stdout"]}

    stream = dealer.send("agent.follow", params, credit={"items": 1, "bytes": 65_536})
    assert dealer.next(stream) == {"v": 1, "id": stream, "stream": True}
    data, numbers = b"", []
    while not (message := dealer.next(stream)).get("end"):
        assert message.keys() == {"v", "id", "seq", "item"}
        numbers.append(message["seq"])
        data += message["item"]["data"]
        size = len(message["item"]["data"])
        dealer.result("stream.credit", {"stream": stream, "items": 1, "bytes": size})

    assert data == b"1\n2\n3\n4\n5\n"
    assert numbers == list(range(len(numbers)))
    assert message == {"v": 1, "id": stream, "end": True}


def test_without_credit_nothing_comes(dealer: Minimal) -> None:
    agent = dealer.spawn("seq 100000")
    dealer.result("agent.wait", {"id": agent}, deadline_s=2.0)

    stream = dealer.send("agent.follow", {"id": agent}, credit={"items": 2, "bytes": 1 << 20})
    assert dealer.next(stream)["stream"]
    items = [dealer.next(stream)["item"] for _ in range(2)]
    dealer.result("server.hello")

    assert items[1]["next_offset"] < items[1]["total"]
    assert dealer.socket.poll(100) == 0
    dealer.result("stream.credit", {"stream": stream, "items": 1, "bytes": 1})
    assert dealer.next(stream)["item"]["offset"] == items[1]["next_offset"]


def test_a_stream_is_cancelled(dealer: Minimal) -> None:
    agent = dealer.spawn("while sleep 0.01; do echo; done")
    stream = dealer.send("agent.follow", {"id": agent})
    assert dealer.next(stream)["stream"]

    dealer.result("stream.cancel", {"stream": stream})
    while not dealer.next(stream).get("end"):
        continue

    assert dealer.refusal("stream.cancel", {"stream": stream})["code"] == "not_found"
    dealer.result("agent.kill", {"id": agent})
    assert dealer.socket.poll(100) == 0


def test_a_stream_is_cancelled_in_the_same_breath(dealer: Minimal) -> None:
    agent = dealer.spawn("while sleep 0.01; do echo; done")

    for _ in range(20):
        stream = dealer.send("agent.follow", {"id": agent})
        cancel = dealer.send("stream.cancel", {"stream": stream})
        assert "result" in dealer.next(cancel)
        while not dealer.next(stream).get("end"):
            continue

    dealer.result("agent.kill", {"id": agent})


def test_a_stream_of_an_agent_nobody_knows_is_refused(dealer: Minimal) -> None:
    assert dealer.refusal("agent.follow", {"id": "nobody"})["code"] == "not_found"


def test_an_id_that_is_open_cannot_be_used_again(dealer: Minimal) -> None:
    agent = dealer.spawn("sleep 60")
    dealer.send("agent.wait", {"id": agent}, id="w")

    error = dealer.refusal("agent.wait", {"id": agent}, id="w")
    stream = dealer.refusal("agent.follow", {"id": agent}, id="w")
    dealer.result("agent.kill", {"id": agent})

    assert error["code"] == stream["code"] == "invalid_argument"
    assert dealer.next("w")["result"]["state"] == "terminated"


def test_an_id_is_free_again_once_its_answer_has_come(dealer: Minimal) -> None:
    agent = dealer.spawn("exec cat", stdin="pipe")

    for _ in range(200):
        assert dealer.result("agent.signal", {"id": agent, "signal": "CONT"}, id="s")
    for _ in range(20):
        assert dealer.ask("agent.follow", {"id": agent}, id="f")["stream"]
        dealer.result("stream.cancel", {"stream": "f"})
        assert dealer.next("f")["end"]

    dealer.result("agent.kill", {"id": agent})


def test_answers_may_overtake_one_another(dealer: Minimal) -> None:
    agent = dealer.spawn("sleep 60")

    waiting = dealer.send("agent.wait", {"id": agent})
    dealer.result("server.hello")
    dealer.result("agent.kill", {"id": agent})

    assert dealer.next(waiting)["result"]["state"] == "terminated"


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_stream_is_refused_on_a_req_socket_which_goes_on(
    connect: Connect, transport: str
) -> None:
    req = connect(zmq.REQ, transport)
    agent = req.spawn("echo")

    error = req.refusal("agent.follow", {"id": agent})

    assert error["code"] == "invalid_argument"
    assert "DEALER" in error["hint"]
    assert req.result("server.hello")["protocol"] == 1


def test_marks_are_maps_as_everything_else(dealer: Minimal) -> None:
    agent = dealer.spawn("echo one; echo two")
    dealer.result("agent.wait", {"id": agent}, deadline_s=2.0)

    chunk = dealer.result("agent.output", {"id": agent, "regex": "two"})

    [mark] = chunk["marks"]
    assert (mark["at"], mark["offset"], mark.keys() <= {"at", "offset", "time"}) == (0, 4, True)
