"""The time index beside a stream's bytes: when which offset was read, and what is kept.

The one writer of `protocol.index_path` files. They stay bounded: entries before the head are
dropped, then every second one.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, Final

from descartesd.keeper.protocol import INDEX_ENTRY, INDEX_HEADER, INDEX_MAGIC

ENTRIES_MAX: Final = 64 * 1024
INTERVAL_S: Final = 0.1
INTERVAL_BYTES: Final = 64 * 1024


class TimeIndex:
    """One stream's index; its file exists from the first entry on."""

    __slots__ = ("_count", "_fd", "_last_offset", "_last_time", "_path", "head")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._count = 0
        self._last_offset = -INTERVAL_BYTES
        self._last_time = 0.0
        self.head = 0

    def load(self) -> None:
        """Take over the head that an earlier attempt has stored.

        Raises OSError.
        """
        self.head = _stored_head(self._path)

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "index_fd": self._fd,
            "count": self._count,
            "last_offset": self._last_offset,
            "last_time": self._last_time,
            "head": self.head,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another program of this process has been."""
        self._fd = state["index_fd"]
        self._count = state["count"]
        self._last_offset = state["last_offset"]
        self._last_time = state["last_time"]
        self.head = state["head"]

    def mark(self, offset: int, now: float) -> None:
        """Note that the byte at `offset` was read at `now`, if the last entry is far enough back.

        Raises OSError.
        """
        passed = offset - self._last_offset
        if passed == 0 or (passed < INTERVAL_BYTES and 0 <= now - self._last_time < INTERVAL_S):
            return
        if self._fd < 0:
            self._open()
        if self._count >= ENTRIES_MAX:
            self._compact()
        os.pwrite(self._fd, INDEX_ENTRY.pack(offset, now), _position(self._count))
        self._count += 1
        self._last_offset = offset
        self._last_time = now

    def move_head(self, head: int) -> None:
        """Note that nothing before `head` is kept any more.

        Raises OSError.
        """
        if self._fd < 0:
            self._open()
        os.pwrite(self._fd, _header(head), 0)
        self.head = head

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # An entry torn by a crash is overwritten, not built upon.
            self._count = max(0, os.fstat(fd).st_size - INDEX_HEADER.size) // INDEX_ENTRY.size
            os.pwrite(fd, _header(self.head), 0)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def _compact(self) -> None:
        kept = self._worth_keeping()
        fresh = f"{self._path}.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            _write_all(fd, _header(self.head) + kept)
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            os.unlink(fresh)
            raise
        os.close(self._fd)
        self._fd = fd
        self._count = len(kept) // INDEX_ENTRY.size

    def _worth_keeping(self) -> bytes:
        entries = os.pread(self._fd, self._count * INDEX_ENTRY.size, _position(0))

        def offset_of(entry: int) -> int:
            return int(INDEX_ENTRY.unpack_from(entries, entry * INDEX_ENTRY.size)[0])

        first = max(0, bisect_right(range(self._count), self.head, key=offset_of) - 1)
        kept = entries[first * INDEX_ENTRY.size :]
        if self._count - first <= ENTRIES_MAX // 2:
            return kept
        return _every_second(kept)


def _header(head: int) -> bytes:
    return INDEX_HEADER.pack(INDEX_MAGIC, 0, head)


def _position(entry: int) -> int:
    return INDEX_HEADER.size + entry * INDEX_ENTRY.size


def _every_second(entries: bytes) -> bytes:
    lanes = array("Q", entries)
    thinned = array("Q", bytes(len(lanes[0::4]) * INDEX_ENTRY.size))
    thinned[0::2] = lanes[0::4]
    thinned[1::2] = lanes[1::4]
    return thinned.tobytes()


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _stored_head(path: str) -> int:
    try:
        with open(path, "rb") as file:
            header = file.read(INDEX_HEADER.size)
    except FileNotFoundError:
        return 0
    if len(header) < INDEX_HEADER.size:
        return 0
    magic, _, head = INDEX_HEADER.unpack(header)
    return int(head) if magic == INDEX_MAGIC else 0
