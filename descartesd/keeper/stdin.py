"""An agent's input: a bounded buffer before its pipe or terminal, and how far each writer is."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Mapping
from typing import Any, Final

from descartesd.errors import ConflictError, WouldBlockError
from descartesd.keeper.loop import Loop
from descartesd.keeper.terminal import Terminal

BUFFER_BYTES: Final = 256 * 1024
WRITERS_MAX: Final = 64
_WRITE_BYTES: Final = 64 * 1024


class Writers:
    """The offset each of the last writers of an agent has reached, over all its attempts."""

    __slots__ = ("_offsets",)

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}

    def state(self) -> list[tuple[str, int]]:
        """What `restore` needs: the offsets, who wrote last at the end."""
        return list(self._offsets.items())

    def restore(self, state: Iterable[tuple[str, int]]) -> None:
        """Go on where another program of this process has been."""
        self._offsets = dict(state)

    def known(self, writer: str, offset: int) -> int:
        """How many bytes from `offset` on this writer has already delivered.

        Raises ConflictError where bytes before `offset` never came.
        """
        reached = self._offsets.get(writer, 0)
        if offset > reached:
            raise ConflictError(
                f"writer '{writer}' is at offset {reached}: offset {offset} leaves a hole",
                hint=f"send the bytes from offset {reached} on",
            )
        return reached - offset

    def advance(self, writer: str, count: int) -> int:
        """Note `count` more bytes; returns the offset expected next."""
        reached = self._offsets.pop(writer, 0) + count
        self._offsets[writer] = reached
        if len(self._offsets) > WRITERS_MAX:
            del self._offsets[next(iter(self._offsets))]
        return reached


class Stdin:
    """The writing end of the pipe of one attempt, or our side of its terminal."""

    __slots__ = ("_buffer", "_fd", "_is_ending", "_loop", "_terminal")

    def __init__(self, loop: Loop, fd: int, terminal: Terminal | None = None) -> None:
        self._loop = loop
        self._fd = fd
        self._terminal = terminal
        self._buffer = bytearray()
        self._is_ending = False
        if fd >= 0:
            # Waiting for nothing still reports EPOLLERR, which is the reader closing its end.
            loop.watch_pipe(fd, self._on_ready, events=0)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, beside the loop and the terminal."""
        return {
            "stdin_fd": self._fd,
            "buffer": bytes(self._buffer),
            "is_ending": self._is_ending,
        }

    @classmethod
    def restore(cls, loop: Loop, state: Mapping[str, Any], terminal: Terminal | None) -> Stdin:
        """Go on where another program of this process has been."""
        made = cls(loop, state["stdin_fd"], terminal)
        made._buffer += state["buffer"]
        made._is_ending = state["is_ending"]
        if made._buffer:
            loop.rewatch_pipe(made._fd, events=select.EPOLLOUT)
        return made

    @property
    def is_open(self) -> bool:
        """Whether it still takes bytes."""
        return self._fd >= 0 and not self._is_ending

    def room(self) -> int:
        """How many bytes `write` would take; 0 only while the agent does not read."""
        return BUFFER_BYTES - len(self._buffer)

    def write(self, data: memoryview) -> None:
        """Deliver `data`, at most `room()` bytes, in the background."""
        self._buffer += data
        self._drain()

    def end(self) -> None:
        """Close as soon as everything taken has been delivered.

        A terminal stays open: its end-of-file character follows what was taken. Raises
        WouldBlockError where there is no room for it.
        """
        if self._terminal is None:
            self._is_ending = True
            self._drain()
        elif self._fd >= 0:
            character = self._terminal.end_of_file()
            if self.room() < len(character):
                raise _blocked()
            self.write(memoryview(character))

    def close(self) -> None:
        """Close now, dropping what has not been delivered."""
        if self._fd >= 0:
            self._loop.unwatch_pipe(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._buffer.clear()

    def _on_ready(self, mask: int) -> None:
        if mask & select.EPOLLERR:
            self.close()
        else:
            self._drain()

    def _drain(self) -> None:
        if self._fd < 0:
            return
        try:
            while self._buffer:
                with memoryview(self._buffer) as whole:
                    written = os.write(self._fd, whole[:_WRITE_BYTES])
                del self._buffer[:written]
        except BlockingIOError:
            self._loop.rewatch_pipe(self._fd, events=select.EPOLLOUT)
            return
        except BrokenPipeError:
            self.close()
            return
        self._loop.rewatch_pipe(self._fd, events=0)
        if self._is_ending:
            self.close()


def deliver(
    stdin: Stdin | None,
    writers: Writers,
    data: bytes,
    *,
    writer: str | None,
    offset: int,
    is_whole: bool = False,
) -> tuple[int, int | None]:
    """Take as much of `data` as there is room for, less what this writer sent before.

    With `is_whole` all of it or nothing.

    Returns the number of bytes settled and the offset expected next of this writer.
    Raises ConflictError (stdin closed, or a hole) and WouldBlockError (no room at all).
    """
    if stdin is None or not stdin.is_open:
        raise ConflictError(
            "stdin is closed" if stdin else "stdin is neither a pipe nor a terminal",
            hint="spawn the agent with --stdin or --tty; what was closed stays closed",
        )
    old = 0 if writer is None else min(writers.known(writer, offset), len(data))
    fresh = memoryview(data)[old : old + stdin.room()]
    if (data and not old and not fresh) or (is_whole and len(fresh) < len(data)):
        raise _blocked()
    stdin.write(fresh)
    if writer is None:
        return len(fresh), None
    return old + len(fresh), writers.advance(writer, len(fresh))


def _blocked() -> WouldBlockError:
    return WouldBlockError(
        f"the agent does not read its stdin: {BUFFER_BYTES} bytes wait already",
        hint="try again later",
    )
