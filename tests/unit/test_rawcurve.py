"""The raw client against libzmq's own CURVE ROUTER."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from descartesd.keys.z85 import decode_key
from tests.support.eventually import eventually
from tests.support.rawcurve import COMMAND, MORE, RawCurve, RawKeys, RefusedError, properties


class Router:
    """A plain CURVE ROUTER that echoes, and a ZAP handler that lets one key in."""

    def __init__(self, endpoint: str) -> None:
        public, secret = zmq.curve_keypair()
        self.key = decode_key(public.decode())
        self.known = RawKeys.new()
        self.got: list[list[bytes]] = []
        self.user_ids: list[str] = []
        self.zap_calls = 0
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._router = self._context.socket(zmq.ROUTER)
        self._router.curve_server = True
        self._router.curve_secretkey = secret
        self._router.zap_domain = b"control"
        self._router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._router.setsockopt(zmq.HANDSHAKE_IVL, 300)
        self._router.setsockopt(zmq.MAXMSGSIZE, 100_000)
        self._router.setsockopt(zmq.HEARTBEAT_IVL, 50)
        self._router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
        self._router.bind(endpoint)
        self.endpoint = str(self._router.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def connect(self, keys: RawKeys | None = None) -> RawCurve:
        return RawCurve.connect(self.endpoint, self.key, keys or self.known)

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        while not self._is_over.is_set():
            for source, _ in poller.poll(20):
                if source is self._zap:
                    frames = self._zap.recv_multipart()
                    self.zap_calls += 1
                    status = b"200" if frames[6] == self.known.public else b"400"
                    self._zap.send_multipart([b"1.0", frames[1], status, b"", b"alice", b""])
                else:
                    messages = self._router.recv_multipart(copy=False)
                    self.user_ids.append(str(messages[-1].get("User-Id")))
                    self.got.append([frame.bytes for frame in messages[1:]])
                    self._router.send_multipart([frame.bytes for frame in messages])
        self._router.close(linger=0)
        self._zap.close(linger=0)
        self._context.term()


@pytest.fixture(params=["tcp", "ipc"])
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Router]:
    made = Router("tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/router")
    yield made
    made.close()


def test_a_whole_handshake_and_messages_of_all_sizes(router: Router) -> None:
    with router.connect() as raw:
        assert (b"Socket-Type", b"ROUTER") in raw.handshake()

        for message in ([b"hi"], [b"one", b"", b"three"], [b"x" * 250], [b"y" * 90_000]):
            raw.send(*message)
            assert raw.receive() == message

    assert router.user_ids == ["alice"] * 4


def test_heartbeats_are_answered(router: Router) -> None:
    with router.connect() as raw:
        raw.handshake()

        flags, body = raw.receive_frame()

        assert flags & COMMAND
        assert body.startswith(b"\x04PING")
        raw.send(b"still there")
        assert raw.receive() == [b"still there"]


def test_a_key_that_is_not_known_is_refused_with_its_status(router: Router) -> None:
    with router.connect(RawKeys.new()) as raw, pytest.raises(RefusedError, match="400"):
        raw.handshake()


def test_a_claimed_user_id_and_other_properties_do_not_replace_those_of_zap(
    router: Router,
) -> None:
    said = properties(b"REQ", b"me", (b"User-Id", b"root"), (b"X-Anything", b"\0" * 300))

    with router.connect() as raw:
        raw.handshake(said)
        raw.send(b"", b"who am I")
        assert raw.receive() == [b"", b"who am I"]

    assert router.user_ids == ["alice"]


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["silent", "after greeting", "after WELCOME"])
def test_whoever_stops_on_the_way_is_cut_off(router: Router, steps: int) -> None:
    with router.connect() as raw:
        if steps >= 1:
            raw.greet()
            raw.read_greeting()
        if steps == 2:
            raw.hello()
            raw.welcome()

        assert raw.is_closed_within(3)
    assert router.zap_calls == 0


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n" + b" " * 60, b"\x16\x03\x01" + bytes(90)],
    ids=["http", "tls"],
)
def test_other_protocols_are_cut_off(router: Router, sent: bytes) -> None:
    with router.connect() as raw:
        raw.send_bytes(sent)

        assert raw.is_closed_within(3)


def test_a_wrong_server_key_does_not_get_past_hello(router: Router) -> None:
    with RawCurve.connect(router.endpoint, RawKeys.new().public, router.known) as raw:
        raw.greet()
        raw.read_greeting()
        raw.hello()

        assert raw.is_closed_within(3)


@pytest.mark.parametrize("lie", ["repeated", "cookie", "vouch"])
def test_a_false_initiate_is_refused(router: Router, lie: str) -> None:
    with router.connect() as raw:
        raw.greet()
        raw.read_greeting()
        raw.hello()
        raw.welcome()
        if lie == "repeated":
            raw.send_bytes(raw.initiate(properties()))
        elif lie == "cookie":
            raw.initiate(properties(), cookie=bytes(96))
        else:
            raw.initiate(properties(), vouch=bytes(96))

        assert raw.is_closed_within(3)
    assert router.got == []


def test_a_repeated_message_is_not_delivered_twice(router: Router) -> None:
    with router.connect() as raw:
        raw.handshake()
        sent = raw.send(b"once")
        assert raw.receive() == [b"once"]

        raw.send_bytes(sent)

        assert raw.is_closed_within(3)
    assert router.got == [[b"once"]]


def test_nonces_may_leap_but_not_go_back(router: Router) -> None:
    with router.connect() as raw:
        raw.handshake()
        raw.send_frame(b"leap", nonce=1_000_000)
        assert raw.receive() == [b"leap"]

        raw.send_frame(b"back", nonce=999)

        assert raw.is_closed_within(3)


def test_flags_are_whatever_is_wanted(router: Router) -> None:
    with router.connect() as raw:
        raw.handshake()
        raw.send_frame(b"first", flags=MORE)
        raw.send_frame(b"last", flags=0)

        assert raw.receive() == [b"first", b"last"]


def test_a_message_that_never_ends_is_not_delivered(router: Router) -> None:
    with router.connect() as raw:
        raw.handshake()
        for _ in range(100):
            raw.send_frame(b"more", more=True)
        with router.connect() as other:
            other.handshake()
            other.send(b"served")
            assert other.receive() == [b"served"]

    assert router.got == [[b"served"]]


def test_a_frame_too_large_is_cut_before_it_is_sent(router: Router) -> None:
    with router.connect() as raw:
        raw.handshake()
        raw.send_bytes(b"\x02" + (512 << 20).to_bytes(8, "big"))

        assert raw.is_closed_within(3)
    eventually(lambda: router.zap_calls == 1)
