"""Streams under credit."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
from msgspec.structs import replace

from descartesd.errors import NotFoundError
from descartesd.transport.server import Peer
from descartesd.transport.streams import Stream, Streams
from descartesd.transport.unread import Unread
from descartesd.wire.envelope import Credit
from descartesd.wire.server import StreamCancel

PEER = Peer(route=b"r", delimited=False, user_id="uid:0", fd=7)


class Wire:
    """Collects what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reachable = True

    def send(self, _peer: Peer, payload: bytes, _is_item: bool = False, /) -> bool:
        self.sent.append(msgpack.unpackb(payload))
        return self.reachable


ITEM = StreamCancel(stream=1)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_items_wait_for_credit() -> None:
    async def scenario() -> list[dict[str, Any]]:
        wire = Wire()
        stream = Stream(PEER, 1, Credit(items=2, bytes=1000), wire.send, Unread())

        async def push() -> None:
            for _ in range(4):
                await stream.push(ITEM, 10)

        task = asyncio.get_running_loop().create_task(push())
        await turn()
        assert [item["seq"] for item in wire.sent] == [0, 1]
        stream.grant(1, 0)
        await turn()
        assert [item["seq"] for item in wire.sent] == [0, 1, 2]
        stream.grant(5, 0)
        await task
        return wire.sent

    assert [item["seq"] for item in asyncio.run(scenario())] == [0, 1, 2, 3]


def test_bytes_count_too() -> None:
    async def scenario() -> int:
        wire = Wire()
        stream = Stream(PEER, 1, Credit(items=100, bytes=15), wire.send, Unread())

        async def push() -> None:
            for _ in range(4):
                await stream.push(ITEM, 10)

        task = asyncio.get_running_loop().create_task(push())
        await turn()
        task.cancel()
        return len(wire.sent)

    assert asyncio.run(scenario()) == 2


def test_a_vanished_client_ends_the_push() -> None:
    async def scenario() -> None:
        wire = Wire()
        wire.reachable = False
        await Stream(PEER, 1, Credit(), wire.send, Unread()).push(ITEM, 1)

    with pytest.raises(ConnectionResetError):
        asyncio.run(scenario())


def test_streams_end_with_their_connection_and_only_they() -> None:
    async def scenario() -> tuple[bool, bool, int]:
        wire = Wire()
        streams = Streams(wire.send, Unread())
        loop = asyncio.get_running_loop()
        tasks = []
        for fd in (7, 8):
            stream = streams.make(replace(PEER, fd=fd), fd, None)
            tasks.append(loop.create_task(asyncio.Event().wait()))
            streams.add(stream, tasks[-1])
        streams.drop_connection(7)
        await turn()
        return tasks[0].cancelled(), tasks[1].cancelled(), len(streams)

    assert asyncio.run(scenario()) == (True, False, 1)


def test_cancel_ends_the_stream_and_tells_so() -> None:
    async def scenario() -> list[dict[str, Any]]:
        wire = Wire()
        streams = Streams(wire.send, Unread())
        task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        streams.add(streams.make(PEER, 5, None), task)
        streams.cancel(PEER, 5)
        await turn()
        with pytest.raises(NotFoundError):
            streams.grant(PEER, 5, 1, 1)
        return wire.sent

    assert asyncio.run(scenario()) == [{"v": 1, "id": 5, "end": True}]


def test_another_connection_cannot_touch_a_stream() -> None:
    async def scenario() -> None:
        streams = Streams(Wire().send, Unread())
        task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        streams.add(streams.make(PEER, 5, None), task)
        with pytest.raises(NotFoundError):
            streams.cancel(replace(PEER, route=b"other"), 5)
        task.cancel()

    asyncio.run(scenario())
