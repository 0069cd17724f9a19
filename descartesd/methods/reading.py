"""Reads output off the loop into the chunks that requests and streams are answered with."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from descartesd.agents.index import Entry
from descartesd.agents.lines import FOUND_MAX, Page, Search, Wanted, read_lines, search_for
from descartesd.agents.output import OutputFiles, Piece
from descartesd.agents.record import Agent
from descartesd.agents.replay import Start, lines_start, screen_start
from descartesd.errors import InternalError
from descartesd.wire.agent import Mark, OutputChunk, StreamName

# A search may take a second: threads must be left for everybody else.
_SEARCHES_AT_ONCE = 2

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Manner:
    """Plain bytes, `lines` whole lines, or the lines that `search` finds."""

    limit: int
    lines: int | None = None
    search: Search | None = None
    timestamps: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether lines do not matter."""
        return self.lines is None and self.search is None


class Place(NamedTuple):
    """An offset in a stream; `complete` when the stream was seen to have ended."""

    stream: StreamName
    offset: int
    complete: bool


class Reader:
    """Shared by all who read output. Raises InternalError when the disk fails."""

    def __init__(self, files: OutputFiles) -> None:
        self._files = files
        self._searches = asyncio.Semaphore(_SEARCHES_AT_ONCE)

    async def start(
        self, agent: Agent, stream: StreamName, offset: int, tail: int | None, since: float | None
    ) -> int:
        """The latest of an offset, the begin of the last lines, and of what came since a time."""
        starts = [offset]
        if tail is not None:
            find = self._files.tail_offset
            starts.append(await _off_loop(agent, find, agent.id, stream, tail))
        if since is not None:
            find_time = self._files.since_offset
            starts.append(await _off_loop(agent, find_time, agent.id, stream, since))
        return max(starts)

    async def screen(self, agent: Agent, stream: StreamName) -> Start:
        """Where the last screenful of a terminal, or the last lines of a stream, begin."""
        kept = agent.output_bytes
        if agent.spec.tty is None:
            return await _off_loop(agent, lines_start, self._files, agent.id, stream, kept)
        async with self._searches:
            return await _off_loop(agent, screen_start, self._files, agent.id, kept)

    async def chunk(self, agent: Agent, place: Place, manner: Manner) -> OutputChunk:
        """The next chunk from a place on."""
        if manner.is_plain:
            return await _off_loop(agent, self._bytes, agent.id, place, manner)
        async with self._searches:
            return await _off_loop(agent, self._lines, agent.id, place, manner)

    def _bytes(self, agent_id: str, place: Place, manner: Manner) -> OutputChunk:
        piece = self._files.read(agent_id, place.stream, place.offset, manner.limit)
        end = piece.offset + len(piece.data)
        marks = []
        if manner.timestamps:
            times = self._files.times(agent_id, place.stream, piece.offset, end)
            marks = _marks_of_times(times, piece.offset)
        return _chunk(place, piece, piece.data, (piece.offset, end), piece.time, marks)

    def _lines(self, agent_id: str, place: Place, manner: Manner) -> OutputChunk:
        wanted = Wanted(manner.limit, manner.lines or FOUND_MAX, manner.search)
        read = partial(self._files.read, agent_id, place.stream)
        page, piece = read_lines(read, place.offset, wanted, complete=place.complete)
        times = self._files.times(agent_id, place.stream, page.offset, page.next_offset)
        marks = []
        if manner.search is not None:
            marks = _marks_of_lines(times, page)
        elif manner.timestamps:
            marks = _marks_of_times(times, page.offset)
        known = [mark.time for mark in marks] or [entry.time for entry in times[:1]]
        time = known[0] if page.data and known else None
        span = (page.offset, page.next_offset)
        return _chunk(place, piece, bytes(page.data), span, time, marks)


async def search_of(regex: str | None) -> Search | None:
    """Compile a client's expression off the loop; raises InvalidArgumentError."""
    return None if regex is None else await asyncio.to_thread(search_for, regex)


async def _off_loop(agent: Agent, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as exc:
        raise InternalError(f"the output of '{agent.name}' cannot be read: {exc}") from exc


def _chunk(
    place: Place,
    piece: Piece,
    data: bytes,
    span: tuple[int, int],
    time: float | None,
    marks: list[Mark],
) -> OutputChunk:
    offset, following = span
    return OutputChunk(
        stream=place.stream,
        data=data,
        offset=offset,
        next_offset=following,
        total=piece.total,
        truncated_before=piece.truncated_before,
        eof=place.complete and following >= piece.total,
        time=time,
        marks=marks,
    )


def _marks_of_times(times: Sequence[Entry], start: int) -> list[Mark]:
    """One for each entry of contiguous data; the first stands for what came before it too."""
    offsets = [start, *(entry.offset for entry in times[1:])]
    return [
        Mark(at=offset - start, offset=offset, time=entry.time)
        for offset, entry in zip(offsets, times, strict=False)
    ]


def _marks_of_lines(times: Sequence[Entry], page: Page) -> list[Mark]:
    offsets = [entry.offset for entry in times]

    def time_of(offset: int) -> float | None:
        number = max(bisect.bisect_right(offsets, offset) - 1, 0)
        return times[number].time if times else None

    return [Mark(at=at, offset=offset, time=time_of(offset)) for at, offset in page.starts]
