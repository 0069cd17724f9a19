"""Bounds the bytes that are kept for a peer that does not read.

libzmq bounds the messages it keeps for a peer, not their bytes, and does not tell how many there
are. But it tells when it is done with a message it was lent instead of given a copy, and it sends
what goes to one peer in order: so one lent message in a while marks how far a peer has got.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import AsyncIterator
from functools import partial

import zmq

# An answer that is smaller is bounded by the number of messages; an item of a stream counts as
# so much at least, so that streams alone never have that number of messages unread.
LARGE = 4096
WINDOW = 1 << 20
_MARK_EVERY = 1 << 17


class _Window:
    """What one connection has not read, in bytes; what comes behind the last mark counts too."""

    __slots__ = ("_left", "_loop", "_marks", "_reserved", "_sent", "_unmarked", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sent = 0
        self._left = 0
        self._unmarked = 0
        self._reserved = 0
        # By how much had been sent with each.
        self._marks: dict[int, weakref.ref[memoryview]] = {}
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def is_full(self) -> bool:
        return self._sent - self._left + self._reserved > WINDOW

    def pack(self, payload: bytes) -> bytes | zmq.Frame:
        """Count a message as sent; what to hand to libzmq."""
        size = max(len(payload), LARGE)
        self._sent += size
        self._unmarked += size
        if self._unmarked < _MARK_EVERY:
            return payload
        self._unmarked = 0
        view = memoryview(payload)
        self._marks[self._sent] = weakref.ref(view, partial(self._let_go, self._sent))
        return zmq.Frame(view, copy=False)

    def _let_go(self, position: int, _mark: weakref.ref[memoryview]) -> None:
        # In a thread of pyzmq's; after the end of the loop nobody counts any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._has_left, position)

    def _has_left(self, position: int) -> None:
        del self._marks[position]
        self._left = max(self._left, position)
        self.admit()

    def fits(self, size: int) -> bool:
        """Whether there is room for so many bytes."""
        # What is behind the last mark may have left long ago.
        return self._sent - self._left + self._reserved + size <= WINDOW + _MARK_EVERY

    def reserve(self, size: int) -> bool:
        """Set bytes aside when there is room for them."""
        if not self.fits(size):
            return False
        self._reserved += size
        return True

    def give_back(self, size: int) -> None:
        """Free what was set aside."""
        self._reserved -= size
        self.admit()

    def admit(self) -> None:
        """Let in who waits, in order, as far as there is room."""
        while self.waiting:
            size, turn = self.waiting[0]
            if not turn.done():
                if not self.reserve(size):
                    return
                turn.set_result(None)
            self.waiting.popleft()


class Unread:
    """What every connection has not read, by its descriptor."""

    def __init__(self) -> None:
        # Of the connections that have been sent anything large, or an item of a stream.
        self.windows: dict[int, _Window] = {}

    def is_full(self, fd: int) -> bool:
        """Whether a connection has to read before it is sent anything large."""
        return fd in self.windows and self.windows[fd].is_full

    def pack(self, fd: int, payload: bytes) -> bytes | zmq.Frame:
        """Count a message that is sent; what to hand to libzmq."""
        return self._window(fd).pack(payload)

    def has_room(self, fd: int, size: int) -> bool:
        """Whether `size` bytes may be sent now, before anything else is done."""
        window = self.windows.get(fd)
        return window is None or (not window.waiting and window.fits(max(size, LARGE)))

    @contextlib.asynccontextmanager
    async def room(self, fd: int, size: int) -> AsyncIterator[None]:
        """Wait for one's turn to send `size` bytes at most, which are set aside for the block."""
        window = self._window(fd)
        size = min(max(size, LARGE), WINDOW)
        if window.waiting or not window.reserve(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            window.waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    window.give_back(size)
                raise
        try:
            yield
        finally:
            window.give_back(size)

    def drop(self, fd: int) -> None:
        """The connection is closed."""
        self.windows.pop(fd, None)

    def _window(self, fd: int) -> _Window:
        window = self.windows.get(fd)
        if window is None:
            window = self.windows[fd] = _Window(asyncio.get_running_loop())
        return window
