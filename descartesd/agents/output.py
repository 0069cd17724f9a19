"""Reads what agents wrote, from the files the keeper appends to; plain blocking functions."""

from __future__ import annotations

import bisect
import mmap
import os
from dataclasses import dataclass

from descartesd.keeper import protocol
from descartesd.wire.agent import StreamTotals

_TAIL_SCAN_MAX = 8 * 1024 * 1024
_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes from `offset`; what lay before `truncated_before` is gone."""

    data: bytes
    offset: int
    total: int
    truncated_before: int
    time: float | None


class OutputFiles:
    """One agent's output directory entry, per stream."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    @staticmethod
    def file_name(agent_id: str, stream: str) -> str:
        """Name of the stream's file in the output directory."""
        return os.path.basename(protocol.data_path("", agent_id, stream))

    def path(self, agent_id: str, stream: str) -> str:
        """Path of the stream's bytes."""
        return protocol.data_path(self._directory, agent_id, stream)

    def totals(self, agent_id: str, stream: str, *, kept: int) -> StreamTotals:
        """How much there is; nothing is dropped of a stream of at most `kept` bytes."""
        try:
            total = os.stat(self.path(agent_id, stream)).st_size
        except FileNotFoundError:
            return StreamTotals()
        head = self._head(agent_id, stream) if total > kept else 0
        return StreamTotals(total=total, truncated_before=head)

    def read(self, agent_id: str, stream: str, offset: int, limit: int) -> Piece:
        """Read at most `limit` bytes from `offset`, or from the first byte still kept.

        Raises OSError on a failing disk.
        """
        try:
            fd = os.open(self.path(agent_id, stream), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Piece(b"", offset, 0, 0, None)
        try:
            head = self._head(agent_id, stream)
            while True:
                offset = max(offset, head)
                data = os.pread(fd, limit, offset)
                # The keeper moves the head before it punches: zeros of a hole lie before it.
                head = self._head(agent_id, stream)
                if not data or head < offset + len(data):
                    break
            gone = max(head - offset, 0)
            data, offset = data[gone:], offset + gone
            total = os.fstat(fd).st_size
        finally:
            os.close(fd)
        time = self._time_at(agent_id, stream, offset) if data else None
        return Piece(data, offset, total, head, time)

    def tail_offset(self, agent_id: str, stream: str, lines: int) -> int:
        """Offset at which the last `lines` lines begin; at most 8 MiB are searched."""
        try:
            fd = os.open(self.path(agent_id, stream), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            end = os.fstat(fd).st_size
            floor = max(self._head(agent_id, stream), end - _TAIL_SCAN_MAX)
            return _line_start(fd, floor, end, lines)
        finally:
            os.close(fd)

    def _head(self, agent_id: str, stream: str) -> int:
        try:
            fd = os.open(
                protocol.index_path(self._directory, agent_id, stream), os.O_RDONLY | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return 0
        try:
            header = os.pread(fd, protocol.INDEX_HEADER.size, 0)
        finally:
            os.close(fd)
        if len(header) < protocol.INDEX_HEADER.size:
            return 0
        head: int = protocol.INDEX_HEADER.unpack(header)[2]
        return head

    def _time_at(self, agent_id: str, stream: str, offset: int) -> float | None:
        """When the byte at `offset` was read: the time of the last entry at or before it."""
        try:
            with open(protocol.index_path(self._directory, agent_id, stream), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                count = (size - protocol.INDEX_HEADER.size) // protocol.INDEX_ENTRY.size
                if count < 1:
                    return None
                with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as index:
                    return _search(index, count, offset)
        except FileNotFoundError:
            return None


def _search(index: mmap.mmap, count: int, offset: int) -> float | None:
    def entry(number: int) -> tuple[int, float]:
        at = protocol.INDEX_HEADER.size + number * protocol.INDEX_ENTRY.size
        found: tuple[int, float] = protocol.INDEX_ENTRY.unpack_from(index, at)
        return found

    position = bisect.bisect_right(range(count), offset, key=lambda number: entry(number)[0])
    return entry(max(position - 1, 0))[1]


def _line_start(fd: int, floor: int, end: int, lines: int) -> int:
    """Walk back from `end` over `lines` newlines, not counting one that ends the file."""
    if lines == 0:
        return end
    wanted = lines
    if end > floor and os.pread(fd, 1, end - 1) == b"\n":
        wanted += 1
    position = end
    while position > floor:
        start = max(floor, position - _BLOCK)
        block = os.pread(fd, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + at + 1
        position = start
    return floor
