"""Reads the time index beside a stream's bytes: what is dropped, and when which byte came.

An entry stands for the bytes up to the next entry; its time is that of its first byte.
"""

from __future__ import annotations

import bisect
import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

from descartesd.keeper import protocol

# The keeper makes a new entry for a byte that comes this much after the last one.
ENTRY_S = 0.1
# It leaves out every second of more than 32,768 entries, so that a shorter index has them all.
ENTRIES_ALL = 16_384


class Entry(NamedTuple):
    """From the byte at `offset` on; `time` is epoch seconds."""

    offset: int
    time: float


def head(path: str) -> int:
    """Offset before which everything is dropped. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        header = os.pread(fd, protocol.INDEX_HEADER.size, 0)
    finally:
        os.close(fd)
    if len(header) < protocol.INDEX_HEADER.size:
        return 0
    found: int = protocol.INDEX_HEADER.unpack(header)[2]
    return found


def time_at(path: str, offset: int) -> float | None:
    """When the byte at `offset` came, None when nothing is known. Raises OSError."""
    with _mapped(path) as index:
        return index[index.last_before(offset)].time if len(index) else None


def entries_between(path: str, start: int, end: int) -> list[Entry]:
    """The entries that stand for the bytes from `start` to `end`. Raises OSError."""
    with _mapped(path) as index:
        if start >= end or not len(index):
            return []
        return [index[n] for n in range(index.last_before(start), index.last_before(end - 1) + 1)]


def offset_since(path: str, since: float, end: int) -> int:
    """The latest offset known to leave out no byte that came at `since` or later, at most `end`.

    `end` must have been the end of the stream before the call. Raises OSError.
    """
    with _mapped(path) as index:
        before: Entry | None = None
        after = end if len(index) else 0
        # One by one: a clock that was set back leaves times that are in no order.
        for entry in index:
            if entry.time >= since:
                after = entry.offset
                break
            before = entry
        if before is None or (len(index) < ENTRIES_ALL and since - before.time >= ENTRY_S):
            return after
        return before.offset


class _Index:
    """The whole entries of an index; one torn by a crash is passed over."""

    def __init__(self, mapped: mmap.mmap | bytes) -> None:
        self._mapped = mapped
        left = len(mapped) - protocol.INDEX_HEADER.size
        self._count = max(left, 0) // protocol.INDEX_ENTRY.size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Entry:
        at = protocol.INDEX_HEADER.size + number * protocol.INDEX_ENTRY.size
        return Entry._make(protocol.INDEX_ENTRY.unpack_from(self._mapped, at))

    def __iter__(self) -> Iterator[Entry]:
        return (self[number] for number in range(self._count))

    def last_before(self, offset: int) -> int:
        """Number of the last entry at or before `offset`, of the first one if there is none."""
        after = bisect.bisect_right(range(self._count), offset, key=lambda n: self[n].offset)
        return max(after - 1, 0)


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[_Index]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, before the map is used
    except FileNotFoundError:
        yield _Index(b"")
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            yield _Index(b"")
            return
        mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    with mapped:
        yield _Index(mapped)
