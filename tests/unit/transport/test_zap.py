"""The ZAP handler, asked by libzmq itself and by hand."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from descartesd.transport.zap import DOMAIN, ENDPOINT
from tests.faults.inprocess import Front
from tests.faults.peers import Keys, Peer
from tests.faults.strangers import FOREIGN

KEY = bytes(range(32))
QUESTION = [b"1.0", b"7", DOMAIN, b"127.0.0.1", b"", b"CURVE", KEY]


class Recorder:
    """Lets everybody in under one name, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.answer: str | Exception | None = "key:somebody"

    def __call__(self, address: str, key: bytes) -> str | None:
        self.asked.append((address, key))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def front(recorder: Recorder) -> Iterator[Front]:
    with Front(recorder) as running:
        yield running


@pytest.fixture
def asker(front: Front) -> Iterator[zmq.Socket[bytes]]:
    """Asks as libzmq does."""
    made = front.context.socket(zmq.REQ)
    made.linger = 0
    made.rcvtimeo = 2000
    made.connect(ENDPOINT)
    yield made
    made.close()


def test_a_peer_comes_under_the_name_it_was_let_in_with(front: Front, recorder: Recorder) -> None:
    keys = Keys(front.public, *zmq.curve_keypair())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = Peer(context, front.endpoint, keys)

    peer.socket.send(b"who am I")

    assert peer.socket.recv() == b"key:somebody"
    assert recorder.asked == [("127.0.0.1", keys.raw[1].public)]
    peer.close()
    context.term()


def test_over_a_unix_socket_the_kernel_tells_the_address(
    recorder: Recorder, tmp_path: Path
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    with Front(recorder, unix_path=f"{tmp_path}/front.sock") as front:
        peer = Peer(context, front.endpoint, Keys(front.public, *zmq.curve_keypair()))
        peer.socket.send(b"")
        assert peer.socket.recv() == b"key:somebody"
        peer.close()

    assert recorder.asked[0][0] == f"localhost:{os.getuid()}:{os.getgid()}:{os.getpid()}"
    context.term()


def test_an_answer_repeats_the_request_it_belongs_to(asker: zmq.Socket[bytes]) -> None:
    asker.send_multipart(QUESTION)

    assert asker.recv_multipart() == [b"1.0", b"7", b"200", b"OK", b"key:somebody", b""]


@pytest.mark.parametrize("answer", [None, ""], ids=["nobody", "no name"])
def test_who_has_no_name_is_refused(
    asker: zmq.Socket[bytes], recorder: Recorder, answer: str | None
) -> None:
    recorder.answer = answer

    asker.send_multipart(QUESTION)

    assert asker.recv_multipart()[2:5] == [b"400", b"not authorised", b""]


def test_a_look_up_that_fails_tells_the_peer_nothing_and_the_next_is_served(
    asker: zmq.Socket[bytes], front: Front, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.answer = ValueError("the secret of the store")
    asker.send_multipart(QUESTION)
    assert asker.recv_multipart()[2:5] == [b"500", b"internal error", b""]
    recorder.answer = "key:next"
    asker.send_multipart(QUESTION)

    assert asker.recv_multipart()[4] == b"key:next"
    assert (front.zap.failed, front.zap.refused, front.zap.accepted) == (1, 1, 1)
    assert [record.message for record in caplog.records] == ["zap.lookup_failed"]


NOT_CURVE = {
    "null": [*QUESTION[:5], b"NULL"],
    "plain": [*QUESTION[:5], b"PLAIN", b"admin", b"admin"],
    "gssapi": [*QUESTION[:5], b"GSSAPI", b"admin@HOST"],
    "null with a key": [*QUESTION[:5], b"NULL", KEY],
    "no key": QUESTION[:6],
    "two keys": [*QUESTION, KEY],
    "another domain": [*QUESTION[:2], b"global", *QUESTION[3:]],
    "no domain": [*QUESTION[:2], b"", *QUESTION[3:]],
}


@pytest.mark.parametrize("question", NOT_CURVE.values(), ids=NOT_CURVE.keys())
def test_only_one_curve_key_in_the_own_domain_is_looked_up(
    asker: zmq.Socket[bytes], recorder: Recorder, question: list[bytes]
) -> None:
    asker.send_multipart(question)

    assert asker.recv_multipart()[2:5] == [b"400", b"not authorised", b""]
    assert recorder.asked == []


@pytest.mark.parametrize(
    "question",
    [[b""], [b"1.0", b"7"], [b"2.0", *QUESTION[1:]], [b"", *QUESTION[1:]]],
    ids=["empty", "short", "another version", "no version"],
)
def test_what_is_no_question_is_not_answered_and_ends_nothing(
    front: Front, recorder: Recorder, question: list[bytes]
) -> None:
    asker = front.context.socket(zmq.DEALER)
    asker.linger = 0
    asker.rcvtimeo = 2000
    asker.connect(ENDPOINT)

    asker.send_multipart([b"", *question])
    asker.send_multipart([b"", *QUESTION])

    assert asker.recv_multipart()[3] == b"200"
    assert len(recorder.asked) == 1
    asker.close()


def test_an_address_that_is_no_text_is_looked_up_all_the_same(
    asker: zmq.Socket[bytes], recorder: Recorder
) -> None:
    asker.send_multipart([*QUESTION[:3], b"\xff\xfe", *QUESTION[4:]])

    assert asker.recv_multipart()[2] == b"200"
    assert recorder.asked == [("��", KEY)]


def test_a_burst_of_questions_is_answered_to_the_last(front: Front) -> None:
    askers = [front.context.socket(zmq.REQ) for _ in range(50)]
    for number, asker in enumerate(askers):
        asker.linger = 0
        asker.rcvtimeo = 2000
        asker.connect(ENDPOINT)
        asker.send_multipart([b"1.0", str(number).encode(), *QUESTION[2:]])

    answers = [asker.recv_multipart()[1] for asker in askers]

    assert answers == [str(number).encode() for number in range(50)]
    for asker in askers:
        asker.close()


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
def test_fault_03_a_foreign_protocol_is_cut_without_a_question(
    front: Front, recorder: Recorder, data: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=2) as stranger:
        try:
            stranger.sendall(data)
            while stranger.recv(65_536):
                continue
        except (ConnectionResetError, BrokenPipeError):
            pass

    assert recorder.asked == []


def test_closing_twice_is_harmless(front: Front) -> None:
    front.run(front.zap.close)

    front.run(front.zap.close)
