"""Streams: items pushed to a client under the credit it grants."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from msgspec import Raw, Struct, UnsetType

from descartesd.errors import (
    DescartesError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from descartesd.transport.server import Peer, Send
from descartesd.transport.unread import Unread
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION, Credit, StreamEnd, StreamItem, StreamOpened

Key = tuple[bytes, str | int]


class Stream:
    """One open stream. An item is sent when at least one item and one byte of credit are left."""

    __slots__ = (
        "_bytes",
        "_credited_at",
        "_is_over",
        "_items",
        "_room",
        "_send",
        "_seq",
        "_unread",
        "check",
        "id",
        "is_open",
        "on_open",
        "peer",
    )

    def __init__(
        self, peer: Peer, stream_id: str | int, credit: Credit, send: Send, unread: Unread
    ) -> None:
        self.peer = peer
        self.id = stream_id
        self._items = credit.items
        self._bytes = credit.bytes
        self._send = send
        self._unread = unread
        self._seq = 0
        # The next item's number when it was last given credit.
        self._credited_at = 0
        self._room: asyncio.Future[None] | None = None
        self._is_over = False
        self.is_open = False
        # Called when the client has been told that items follow.
        self.on_open: Callable[[], None] | None = None
        # Raises PermissionDeniedError once its client may not have it any more.
        self.check: Callable[[], None] | None = None

    def open(self) -> None:
        """Tell the client that items follow; raises ConnectionResetError when it is gone."""
        self._deliver(codec.encode(StreamOpened(v=VERSION, id=self.id)))
        self.is_open = True
        if self.on_open is not None:
            self.on_open()

    async def room(self) -> int:
        """Wait for credit; the bytes an item may have."""
        while self._items <= 0 or self._bytes <= 0:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        return self._bytes

    async def push(self, item: Struct | Raw, size: int) -> None:
        """Send an item of `size` payload bytes once there is credit and the client has read on.

        Raises ConnectionResetError when the client is gone or does not read.
        """
        await self.room()
        self._items -= 1
        self._bytes -= size
        message = StreamItem(v=VERSION, id=self.id, seq=self._seq, item=item)
        self._seq += 1
        payload = codec.encode(message)
        if self._unread.has_room(self.peer.fd, len(payload)):
            self._deliver(payload, is_item=True)
            return
        async with self._unread.room(self.peer.fd, len(payload)):
            self._deliver(payload, is_item=True)

    def _deliver(self, payload: bytes, *, is_item: bool = False) -> None:
        if not self._send(self.peer, payload, is_item):
            raise ConnectionResetError(f"stream {self.id}: the client is gone")

    def grant(self, items: int, size: int) -> None:
        """Add credit."""
        self._credited_at = self._seq
        self._items += items
        self._bytes += size
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    @property
    def has_moved(self) -> bool:
        """Whether an item was sent since it was last given credit."""
        return self._seq != self._credited_at

    def end(self, error: DescartesError | None = None) -> None:
        """Tell the client, once, that nothing more comes, and why."""
        if self._is_over:
            return
        self._is_over = True
        last = (
            codec.encode(StreamEnd(v=VERSION, id=self.id))
            if error is None
            else codec.failure(self.id, error)
        )
        self._send(self.peer, last)


class Streams:
    """All open streams, found by the request that opened them or by their connection."""

    def __init__(self, send: Send, unread: Unread) -> None:
        self._send = send
        self._unread = unread
        self._open: dict[Key, tuple[Stream, asyncio.Task[None]]] = {}
        self._by_fd: defaultdict[int, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._open)

    def make(self, peer: Peer, stream_id: str | int, credit: Credit | UnsetType | None) -> Stream:
        """Make a stream, not yet open."""
        given = credit if isinstance(credit, Credit) else Credit()
        return Stream(peer, stream_id, given, self._send, self._unread)

    def add(self, stream: Stream, task: asyncio.Task[None]) -> None:
        """Register an open stream until its task is done."""
        key = (stream.peer.route, stream.id)
        self._open[key] = (stream, task)
        self._by_fd[stream.peer.fd].add(key)
        task.add_done_callback(lambda _: self._forget(stream))

    def grant(self, peer: Peer, stream_id: str | int, items: int, size: int) -> None:
        """Add credit to a stream of this connection; raises NotFoundError."""
        self._find(peer, stream_id)[0].grant(items, size)

    def is_open(self, peer: Peer, stream_id: str | int) -> bool:
        """Whether this connection has such a stream."""
        return (peer.route, stream_id) in self._open

    def has_moved(self, peer: Peer, stream_id: str | int) -> bool:
        """Whether a stream of this connection has sent something since it was given credit."""
        return self.is_open(peer, stream_id) and self._find(peer, stream_id)[0].has_moved

    def cancel(self, peer: Peer, stream_id: str | int) -> None:
        """End a stream of this connection; raises NotFoundError."""
        stream, task = self._find(peer, stream_id)
        task.cancel()
        # Its id is free as soon as the client has heard of the end.
        self._forget(stream)
        stream.end()

    def expel(
        self,
        identify: Callable[[str], object],
        on_expelled: Callable[[Peer, str, DescartesError], None],
    ) -> None:
        """End the streams of peers that `identify` refuses, and those refused by their `check`."""
        for stream, task in tuple(self._open.values()):
            try:
                identify(stream.peer.user_id)
                if stream.check is not None:
                    stream.check()
            except (UnauthenticatedError, PermissionDeniedError) as error:
                on_expelled(stream.peer, "stream", error)
                self._break_off(stream, task, error)

    def end_all(self, error: DescartesError) -> None:
        """End every stream, and say why."""
        for stream, task in tuple(self._open.values()):
            self._break_off(stream, task, error)

    def _break_off(self, stream: Stream, task: asyncio.Task[None], error: DescartesError) -> None:
        task.cancel()
        self._forget(stream)
        stream.end(error)

    def drop_connection(self, fd: int) -> None:
        """The connection is closed: its streams end."""
        for key in self._by_fd.get(fd, ()):
            self._open[key][1].cancel()

    def _find(self, peer: Peer, stream_id: str | int) -> tuple[Stream, asyncio.Task[None]]:
        try:
            return self._open[peer.route, stream_id]
        except KeyError:
            raise NotFoundError(f"no stream '{stream_id}' is open on this connection") from None

    def _forget(self, stream: Stream) -> None:
        key = (stream.peer.route, stream.id)
        if key not in self._open or self._open[key][0] is not stream:
            return
        del self._open[key]
        keys = self._by_fd[stream.peer.fd]
        keys.discard(key)
        if not keys:
            del self._by_fd[stream.peer.fd]
