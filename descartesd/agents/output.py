"""Reads what agents wrote, from the files the keeper appends to; plain blocking functions."""

from __future__ import annotations

import os
from dataclasses import dataclass

from descartesd.agents import index
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
        time = index.time_at(self._index_path(agent_id, stream), offset) if data else None
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

    def since_offset(self, agent_id: str, stream: str, since: float) -> int:
        """Offset from which on all is that came at `since` (epoch seconds) or later.

        As near to it as the time index tells: no such byte lies before it, and of older ones
        those of a tenth of a second at most, or with an index beyond 16,384 entries of one entry.
        """
        try:
            # The end first: of what comes after it nothing may be left out.
            end = os.stat(self.path(agent_id, stream)).st_size
        except FileNotFoundError:
            return 0
        return index.offset_since(self._index_path(agent_id, stream), since, end)

    def times(self, agent_id: str, stream: str, start: int, end: int) -> list[index.Entry]:
        """What is known about when the bytes from `start` to `end` came, in their order."""
        return index.entries_between(self._index_path(agent_id, stream), start, end)

    def _head(self, agent_id: str, stream: str) -> int:
        return index.head(self._index_path(agent_id, stream))

    def _index_path(self, agent_id: str, stream: str) -> str:
        return protocol.index_path(self._directory, agent_id, stream)


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
