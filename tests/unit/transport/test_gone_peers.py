"""Peers that have gone, do not read, or may not be here any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq
from msgspec.structs import replace

from descartesd.errors import UnauthenticatedError
from descartesd.transport.server import Peer, Send
from descartesd.transport.shed import Shed
from descartesd.transport.streams import Stream, Streams
from descartesd.transport.unread import Unread
from descartesd.wire.envelope import Credit
from descartesd.wire.server import StreamCancel
from tests.faults.inprocess import Front
from tests.support.eventually import eventually

PEER = Peer(route=b"r", delimited=False, user_id="key:alice", fd=7)
ITEM = StreamCancel(stream=1)


class Silent(Front):
    """Answers nothing and notes what it reads."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        super().__init__(lambda _address, _key: "key:anybody")

    def _answer(self, _peer: Peer, payload: bytes) -> None:
        self.read.append(payload)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def onto(wire: list[bytes]) -> Send:
    def send(_peer: Peer, payload: bytes, _is_item: bool = False, /) -> bool:
        wire.append(payload)
        return True

    return send


def dealer(context: zmq.Context[zmq.Socket[bytes]], front: Front) -> zmq.Socket[bytes]:
    sock = context.socket(zmq.DEALER)
    sock.linger = 2000
    sock.curve_serverkey = front.public
    sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
    sock.connect(front.endpoint)
    return sock


def test_requests_of_a_connection_that_is_known_to_be_over_are_dropped(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    with Silent() as front:
        # Connected beforehand: a new connection might get the number of the one that ends.
        other = dealer(context, front)
        other.send(b"here")
        eventually(lambda: front.read == [b"here"])
        sock = dealer(context, front)
        sock.send(b"first")
        eventually(lambda: front.read == [b"here", b"first"])

        def leave() -> None:
            # The server looks up only when everything has come and the connection is closed.
            for _ in range(90):
                sock.send(b"late")
            sock.close()
            time.sleep(0.2)

        front.router._on_disconnected = lambda _fd: front.read.append(b"over")
        front.run(leave)
        eventually(lambda: b"over" in front.read)
        other.send(b"other")
        eventually(lambda: front.read[-1] == b"other")
        other.close(linger=0)

        assert front.read[front.read.index(b"over") :] == [b"over", b"other"]


def test_number_of_a_closed_connection_serves_the_next_one(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    with Silent() as front:
        for number in range(20):
            sock = dealer(context, front)
            sock.send(b"%d" % number)
            eventually(lambda: front.read[-1:] == [b"%d" % number])  # noqa: B023
            sock.close(linger=0)

        assert len(front.read) == 20


def test_dropped_answers_are_told_once_the_peer_reads_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire: list[bytes] = []
    reads = False

    def send(_peer: Peer, payload: bytes, _is_item: bool = False, /) -> bool:
        if reads:
            wire.append(payload)
        return reads

    async def scenario() -> None:
        nonlocal reads
        shed = Shed(send)
        shed.add(PEER, [1])
        shed.add(PEER, [2, 1, None])
        shed.settle()
        assert PEER.fd in shed.peers
        reads = True
        shed.settle()
        assert PEER.fd not in shed.peers
        assert shed.seen == 1
        shed.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())

    assert [message["id"] for message in sent(wire)] == [1, 2, None]
    assert {message["error"]["code"] for message in sent(wire)} == {"resource_exhausted"}
    assert len([record for record in caplog.records if record.getMessage() == "peer.shed"]) == 1


def test_who_has_gone_is_owed_nothing() -> None:
    async def scenario() -> None:
        shed = Shed(lambda _peer, _payload, _is_item=False: None)
        shed.add(PEER, [1, 2])
        shed.settle()
        shed.close()
        assert not shed.peers

    asyncio.run(scenario())


def test_of_more_dropped_answers_than_a_thousand_nobody_is_told() -> None:
    async def scenario() -> int:
        wire: list[bytes] = []
        shed = Shed(onto(wire))
        shed.add(PEER, range(5000))
        shed.settle()
        shed.close()
        return len(wire)

    assert asyncio.run(scenario()) == 1000


def sent(wire: list[bytes]) -> list[dict[str, Any]]:
    return [msgpack.unpackb(payload) for payload in wire]


def test_stream_ends_once() -> None:
    wire: list[bytes] = []
    stream = Stream(PEER, 1, Credit(), onto(wire), Unread())

    stream.end()
    stream.end(UnauthenticatedError("too late"))

    assert sent(wire) == [{"v": 1, "id": 1, "end": True}]


def test_stream_of_a_client_that_is_gone_is_not_opened() -> None:
    with pytest.raises(ConnectionResetError):
        Stream(PEER, 1, Credit(), lambda _peer, _payload, _is_item=False: None, Unread()).open()


def test_streams_of_who_is_let_in_no_longer_end_with_the_reason() -> None:
    async def scenario() -> list[dict[str, Any]]:
        wire: list[bytes] = []
        streams = Streams(onto(wire), Unread())
        async with asyncio.TaskGroup() as group:
            for number, user_id in enumerate(("key:alice", "key:bob")):
                stream = streams.make(replace(PEER, user_id=user_id), number, None)
                task = group.create_task(asyncio.Event().wait())
                streams.add(stream, task)

            def identify(user_id: str) -> None:
                if user_id == "key:alice":
                    raise UnauthenticatedError("alice has left")

            told: list[tuple[str, str, str]] = []
            streams.expel(identify, lambda *who: told.append((who[0].user_id, who[1], who[2].code)))
            assert len(streams) == 1
            assert told == [("key:alice", "stream", "unauthenticated")]
            task.cancel()
        return sent(wire)

    (only,) = asyncio.run(scenario())

    assert (only["id"], only["error"]["code"]) == (0, "unauthenticated")
