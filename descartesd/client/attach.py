"""An agent's terminal in a program's own hands, for programs without asyncio."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from descartesd.client.closing import Closing
from descartesd.errors import InvalidArgumentError
from descartesd.wire.attach import AttachChunk

if TYPE_CHECKING:
    from descartesd.client.sync import Client, Stream
    from descartesd.wire.agent import Written

# From one size to the next: a program that is told of both at once sees no difference.
BETWEEN_SIZES_S = 0.1


class Attachment(Closing):
    """What the agent writes, from its last screenful on, and the way to write to it.

    Made by `Client.attach`. The chunks are iterated over by one thread; the first of each stream
    comes at once, even without data. After a lost connection they go on where they were. Another
    thread may write and resize.
    """

    def __init__(
        self,
        client: Client,
        agent_id: str,
        stream: Stream[AttachChunk],
        *,
        watch: bool,
    ) -> None:
        self._client = client
        self._id = agent_id
        self._watches = watch
        self._stream = stream

    def __iter__(self) -> Iterator[AttachChunk]:
        return self

    def __next__(self) -> AttachChunk:
        return next(self._stream)

    def write(self, data: bytes, *, deadline_s: float | None = None) -> Written:
        """Write to the agent; see `Client.write`. Raises InvalidArgumentError when it watches."""
        refuse_to_write(self._watches)
        return self._client.write(self._id, data, deadline_s=deadline_s)

    def resize(self, rows: int, cols: int) -> None:
        """Set the size of the agent's terminal."""
        self._client.agent.resize(id=self._id, rows=rows, cols=cols)

    def redraw(self, rows: int, cols: int) -> None:
        """Set the size, and have a full-screen program draw its screen anew even if it had it."""
        self.resize(other_than(rows), cols)
        time.sleep(BETWEEN_SIZES_S)
        self.resize(rows, cols)

    def detach(self) -> None:
        """Leave the agent alone, as `close`."""
        self._stream.close()

    close = detach


def new_writer() -> str:
    """A token nobody else has."""
    return os.urandom(16).hex()


def other_than(rows: int) -> int:
    """A height that is not this one, so that a change of size is noticed."""
    return rows - 1 if rows > 1 else rows + 1


def refuse_to_write(watches: bool) -> None:
    """Raise InvalidArgumentError for who only watches."""
    if watches:
        raise InvalidArgumentError("attached only to watch: attach without watch to write")
