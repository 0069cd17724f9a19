"""Where a follower of an agent's output stands, so that a new stream goes on where one was cut."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from descartesd.wire.agent import AgentFollow, FollowOffsets, Mark, OutputChunk, StreamName


class FollowPosition:
    """Counts what the consumer has been given: no byte twice, none left out."""

    __slots__ = ("_ended", "_next", "_request")

    def __init__(self, request: AgentFollow) -> None:
        """`tail` and `since` of the request must have been turned into offsets."""
        self._request = request
        self._next: dict[StreamName, int] = {
            "stdout": request.offsets.stdout,
            "stderr": request.offsets.stderr,
        }
        self._ended: set[StreamName] = set()

    def request(self, waiting: Iterable[OutputChunk]) -> AgentFollow:
        """The request that goes on behind the chunks the consumer has or is still to be given."""
        offsets = dict(self._next)
        for chunk in waiting:
            offsets[chunk.stream] = max(offsets[chunk.stream], chunk.next_offset)
        return replace(self._request, offsets=FollowOffsets(**offsets))

    def is_complete(self, waiting: Iterable[OutputChunk]) -> bool:
        """Whether every stream has ended."""
        ended = self._ended | {chunk.stream for chunk in waiting if chunk.eof}
        return ended >= set(self._request.streams)

    def accept(self, chunk: OutputChunk) -> OutputChunk | None:
        """The part of a chunk the consumer has not been given yet, None when there is none."""
        at = self._next[chunk.stream]
        is_news = chunk.eof and chunk.stream not in self._ended
        if chunk.next_offset <= at and not is_news:
            return None
        self._next[chunk.stream] = max(at, chunk.next_offset)
        if chunk.eof:
            self._ended.add(chunk.stream)
        return chunk if chunk.offset >= at else _from(chunk, at)


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
