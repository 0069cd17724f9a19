"""Where the consumer of a stream stands, so that a new stream goes on where one was cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from descartesd.wire.agent import (
    AgentFollow,
    FollowOffsets,
    Mark,
    OutputChunk,
    StreamName,
)
from descartesd.wire.attach import AgentAttach, AttachOffsets
from descartesd.wire.event import Event, EventFollow


class Position(Protocol):
    """Counts what the consumer of a stream has been given: nothing twice, nothing left out."""

    def request(self, waiting: Iterable[Any]) -> Struct:
        """The request that goes on behind the items the consumer has or is still to be given."""

    def is_complete(self, waiting: Iterable[Any]) -> bool:
        """Whether nothing more comes behind these."""

    def accept(self, item: Any) -> Struct | None:
        """The part of an item the consumer has not been given yet, None when there is none."""


def position_of(request: Struct) -> Position | None:
    """Where the stream of this request begins; None when it cannot be gone on with."""
    if isinstance(request, AgentFollow):
        return FollowPosition(request)
    if isinstance(request, AgentAttach):
        return AttachPosition(request)
    if isinstance(request, EventFollow) and request.since is not None:
        return EventPosition(request.since)
    return None


class _Reached:
    """How far the consumer of output has come in each stream, and which of them have ended."""

    __slots__ = ("_ended", "_next")

    def __init__(self, starts: dict[StreamName, int | None]) -> None:
        """A stream that begins at None begins with its first chunk."""
        self._next = starts
        self._ended: set[StreamName] = set()

    def offsets(self, waiting: Iterable[OutputChunk]) -> dict[StreamName, int | None]:
        """The offsets behind what the consumer has or is still to be given."""
        offsets = dict(self._next)
        for chunk in waiting:
            offsets[chunk.stream] = max(offsets[chunk.stream] or 0, chunk.next_offset)
        return offsets

    def has_ended(self, streams: Iterable[StreamName], waiting: Iterable[OutputChunk]) -> bool:
        """Whether each of these has."""
        ended = self._ended | {chunk.stream for chunk in waiting if chunk.eof}
        return ended >= set(streams)

    def accept(self, chunk: OutputChunk) -> OutputChunk | None:
        """The part of a chunk the consumer has not been given yet, None when there is none."""
        at = self._next[chunk.stream]
        if at is None:
            at = self._next[chunk.stream] = chunk.offset
        is_news = chunk.eof and chunk.stream not in self._ended
        if chunk.next_offset <= at and not is_news:
            return None
        self._next[chunk.stream] = max(at, chunk.next_offset)
        if chunk.eof:
            self._ended.add(chunk.stream)
        return chunk if chunk.offset >= at else _from(chunk, at)


class FollowPosition(_Reached):
    """The offsets behind the output the consumer has been given, and which streams have ended."""

    __slots__ = ("_request",)

    def __init__(self, request: AgentFollow) -> None:
        """`tail` and `since` of the request must have been turned into offsets."""
        super().__init__({"stdout": request.offsets.stdout, "stderr": request.offsets.stderr})
        self._request = request

    def request(self, waiting: Iterable[OutputChunk]) -> AgentFollow:
        """The request that goes on behind the chunks the consumer has or is still to be given."""
        offsets = {name: at or 0 for name, at in self.offsets(waiting).items()}
        return replace(self._request, offsets=FollowOffsets(**offsets))

    def is_complete(self, waiting: Iterable[OutputChunk]) -> bool:
        """Whether every stream has ended."""
        return self.has_ended(self._request.streams, waiting)


class AttachPosition(_Reached):
    """The same from the last screenful on, wherever the server found its begin."""

    __slots__ = ("_request",)

    def __init__(self, request: AgentAttach) -> None:
        """Begins at the offsets of the request, where it has any."""
        super().__init__({"stdout": request.offsets.stdout, "stderr": request.offsets.stderr})
        self._request = request

    def request(self, waiting: Iterable[OutputChunk]) -> AgentAttach:
        """The request that goes on behind the chunks the consumer has or is still to be given.

        Once it has begun it steals no more: whoever took the pen meanwhile keeps it.
        """
        offsets = self.offsets(waiting)
        is_new = all(at is None for at in offsets.values())
        steal = self._request.steal and is_new
        return replace(self._request, steal=steal, offsets=AttachOffsets(**offsets))

    def is_complete(self, waiting: Iterable[OutputChunk]) -> bool:
        """Whether both streams have ended; that a terminal has one only the server knows."""
        return self.has_ended(("stdout", "stderr"), waiting)

    def accept(self, chunk: OutputChunk) -> OutputChunk | None:
        """The part of a chunk the consumer has not been given yet; the first may have no data."""
        is_first = self._next[chunk.stream] is None
        fresh = super().accept(chunk)
        return chunk if is_first else fresh


class EventPosition:
    """The number of the last event the consumer has been given; a gap has the last one missed."""

    __slots__ = ("_last",)

    def __init__(self, since: int) -> None:
        """The first event given is the one behind `since`."""
        self._last = since

    def request(self, waiting: Iterable[Event]) -> EventFollow:
        """The request that goes on behind the events the consumer has or is still to be given."""
        return EventFollow(since=max((event.seq for event in waiting), default=self._last))

    def is_complete(self, waiting: Iterable[Event]) -> bool:
        """Events never end."""
        del waiting
        return False

    def accept(self, event: Event) -> Event | None:
        """The event, None when it has been given before."""
        if event.seq <= self._last:
            return None
        self._last = event.seq
        return event


def _from(chunk: OutputChunk, offset: int) -> OutputChunk:
    """What a chunk tells of the bytes from `offset` on, which lies within it."""
    if not chunk.marks:
        return replace(chunk, data=chunk.data[offset - chunk.offset :], offset=offset)
    ends = [*(mark.at for mark in chunk.marks[1:]), len(chunk.data)]
    marks: list[Mark] = []
    for mark, end in zip(chunk.marks, ends, strict=True):
        passed = max(offset - mark.offset, 0)
        if mark.at + passed < end:
            marks.append(replace(mark, at=mark.at + passed, offset=mark.offset + passed))
    cut = marks[0].at if marks else len(chunk.data)
    marks = [replace(mark, at=mark.at - cut) for mark in marks]
    return replace(chunk, data=chunk.data[cut:], offset=offset, marks=marks)
