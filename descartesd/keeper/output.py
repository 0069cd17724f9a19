"""From an agent's pipes or terminal into files, with the disk bound kept before each write.

Offset n of a stream is offset n of its file for ever: what is too old becomes a hole.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from descartesd.keeper import kernel
from descartesd.keeper.index import TimeIndex
from descartesd.keeper.loop import Loop
from descartesd.keeper.protocol import data_path, index_path

READ_BYTES: Final = 64 * 1024
BLOCK: Final = 4096
RETRY_S: Final = 1.0
_LAST_READS: Final = 2
STEP_MIN: Final = 64 * 1024
PIPE_BYTES_MAX: Final = 1024 * 1024
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_NO_HOLES: Final = (errno.EOPNOTSUPP, errno.ENOSYS)


class Pump:
    """What all streams share: the loop, one read buffer, and whether holes can be punched."""

    __slots__ = ("buffer", "loop", "output_dir", "punches", "say", "view", "window")

    def __init__(
        self,
        loop: Loop,
        output_dir: str,
        say: Callable[[str], None],
        *,
        punches: bool | None = None,
    ) -> None:
        """Whether holes can be punched is tried where it is not known."""
        self.loop = loop
        self.output_dir = output_dir
        self.say = say
        self.buffer = bytearray(READ_BYTES)
        self.view = memoryview(self.buffer)
        # As readv(2) takes it.
        self.window = [self.view]
        self.punches = punches is not False
        if punches is None and not _can_punch(output_dir):
            self.note_no_holes()

    def note_no_holes(self) -> None:
        """Say once that old output will keep its space on the disk."""
        self.punches = False
        self.say(f"the file system of '{self.output_dir}' punches no holes: old output is skipped")

    def remove(self, agent_id: str, stream: str) -> None:
        """Delete the files of a stream, if there are any.

        Raises OSError.
        """
        for path in (
            data_path(self.output_dir, agent_id, stream),
            index_path(self.output_dir, agent_id, stream),
        ):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue


class Stream:
    """stdout or stderr of one agent, over all its attempts."""

    __slots__ = (
        "_file", "_held", "_index", "_is_overdue", "_limit", "_on_end", "_path", "_pipe", "_pump",
        "_punched", "_window", "error", "total",
    )  # fmt: skip

    def __init__(self, pump: Pump, agent_id: str, name: str) -> None:
        self._pump = pump
        self._path = data_path(pump.output_dir, agent_id, name)
        self._index = TimeIndex(index_path(pump.output_dir, agent_id, name))
        self._file = -1
        self._pipe = -1
        self._held = b""
        self._is_overdue = False
        self._limit = 0
        self._punched = 0
        self._window = pump.window
        self._on_end: Callable[[], None] | None = None
        self.total = 0
        self.error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether more may come: the pipe is open, or bytes wait for room on the disk."""
        return self._pipe >= 0 or bool(self._held)

    def go_on(self) -> None:
        """Go on where the file of the attempts before ends; raises OSError."""
        try:
            self.total = os.stat(self._path).st_size
        except FileNotFoundError:
            self.total = 0
        else:
            self._index.load()

    def attach(self, pipe: int, limit: int, on_end: Callable[[], None]) -> None:
        """Own the reading end of a pipe from now on; about `limit` bytes of it are kept.

        The file is made by the first byte. `on_end` is called when no more can come.
        """
        self._limit = max(limit, BLOCK)
        is_small = self._limit < READ_BYTES
        self._window = [self._pump.view[: self._limit]] if is_small else self._pump.window
        self._pipe = pipe
        self._on_end = on_end
        self._is_overdue = False
        self._pump.loop.watch_pipe(pipe, self._on_readable)

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "pipe_fd": self._pipe,
            "file_fd": self._file,
            "held": self._held,
            "is_overdue": self._is_overdue,
            "limit": self._limit,
            "punched": self._punched,
            "total": self.total,
            "error": self.error,
            "index": self._index.state(),
        }

    def restore(self, state: Mapping[str, Any], on_end: Callable[[], None]) -> None:
        """Go on where another program of this process has been."""
        self._index.restore(state["index"])
        self._file = state["file_fd"]
        self._held = state["held"]
        self._limit = state["limit"]
        self._punched = state["punched"]
        self.total = state["total"]
        self.error = state["error"]
        if state["pipe_fd"] >= 0:
            self.attach(state["pipe_fd"], self._limit, on_end)
        if self._held:
            self._pump.loop.unwatch_pipe(self._pipe)
            self._pump.loop.call_later(RETRY_S, self._retry)
        self._is_overdue = state["is_overdue"]

    def end(self) -> None:
        """Take what the pipe holds now and close it, whoever else still has it open."""
        self._is_overdue = True
        most = self.total + PIPE_BYTES_MAX
        while self._pipe >= 0 and not self._held and self.total < most and self._take():
            continue
        if self._pipe >= 0 and not self._held:
            self._close_pipe()

    def look_for_end(self) -> None:
        """Take a little now: of who has written little, its end too, without a turn of its own."""
        for _ in range(_LAST_READS):
            if self._pipe < 0 or self._held or not self._take():
                return

    def abandon(self) -> None:
        """Close everything and drop what waits for room on the disk; `on_end` is not called."""
        if self._pipe >= 0:
            if not self._held:
                self._pump.loop.unwatch_pipe(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
        self._on_end = None
        self._held = b""
        self._close_files()

    def _on_readable(self, _mask: int) -> None:
        self._take()

    def _take(self) -> bool:
        try:
            count = os.readv(self._pipe, self._window)
        except BlockingIOError:
            return False
        except OSError as exc:
            # Nobody has the terminal open any more; what they wrote has been read before.
            if exc.errno != errno.EIO:
                raise
            count = 0
        if count == 0:
            self._close_pipe()
            return False
        self._write(self._pump.view[:count])
        if self._held:
            self._pump.loop.unwatch_pipe(self._pipe)
        return not self._held

    def _close_pipe(self) -> None:
        self._pump.loop.unwatch_pipe(self._pipe)
        os.close(self._pipe)
        self._pipe = -1
        self._close_files()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def _close_files(self) -> None:
        # The index is opened after the file.
        if self._file >= 0:
            self._index.close()
            os.close(self._file)
            self._file = -1

    def _write(self, left: memoryview) -> None:
        try:
            if self._file < 0:
                self._file = os.open(self._path, _APPEND, 0o640)
            self._make_room(len(left))
            self._index.mark(self.total, time.time())
            while left:
                written = os.write(self._file, left)
                self.total += written
                left = left[written:]
        except OSError as exc:
            self.error = f"writing '{self._path}' stopped at {self.total}: {exc.strerror}"
            self._held = bytes(left)
            self._pump.loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        if not self._held:
            return
        held, self._held = self._held, b""
        self._write(memoryview(held))
        if self._held:
            return
        self.error = None
        self._pump.loop.watch_pipe(self._pipe, self._on_readable)
        if self._is_overdue:
            self.end()

    def _make_room(self, count: int) -> None:
        excess = self.total + count - self._index.head - self._limit
        if excess <= 0:
            return
        step = min(max(self._limit // 8, STEP_MIN), self._limit // 2)
        head = min(self._index.head + excess + step, self.total)
        head -= head % BLOCK
        if head > self._index.head:
            # The reader's view first: it must never take a hole for what the agent wrote.
            self._index.move_head(head)
            self._punch(head)

    def _punch(self, head: int) -> None:
        if not self._pump.punches:
            return
        try:
            kernel.punch_hole(self._file, self._punched, head - self._punched)
        except OSError as exc:
            if exc.errno not in _NO_HOLES:
                raise
            self._pump.note_no_holes()
        self._punched = head


def _can_punch(output_dir: str) -> bool:
    path = f"{output_dir}/.holes-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kernel.punch_hole(fd, 0, BLOCK)
    except OSError as exc:
        if exc.errno not in _NO_HOLES:
            raise
        return False
    finally:
        os.close(fd)
        os.unlink(path)
    return True
