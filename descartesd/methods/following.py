"""Pushes an agent's output to a client as it comes, under the client's credit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from descartesd.agents.book import Book
from descartesd.agents.follow import Watches
from descartesd.agents.record import Agent
from descartesd.errors import NotFoundError, ResourceExhaustedError
from descartesd.methods.reading import Manner, Place, Reader, search_of
from descartesd.transport.streams import Stream
from descartesd.wire.agent import AgentFollow, OutputChunk, StreamName

CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Source:
    """An agent, and what it takes to read its output as it comes."""

    book: Book
    watches: Watches
    reader: Reader
    agent: Agent


async def follow(source: Source, params: AgentFollow, stream: Stream) -> None:
    """Push everything from the wanted offsets until every wanted stream has ended.

    With a `regex` a line waits for its newline; one longer than a chunk counts as several.
    Raises InvalidArgumentError when RE2 does not take the `regex`, and as `pump` does.
    """
    manner = Manner(CHUNK, search=await search_of(params.regex), timestamps=params.timestamps)
    positions = await _positions(source.reader, source.agent, params)
    await pump(source, positions, manner, stream)


async def pump(
    source: Source,
    positions: dict[StreamName, int],
    manner: Manner,
    stream: Stream,
    *,
    first: Sequence[OutputChunk] = (),
) -> None:
    """Push the chunks of `first`, then everything behind the positions until its end.

    Raises NotFoundError when the agent is removed meanwhile, ResourceExhaustedError when the
    kernel gives no further watch.
    """
    book, agent = source.book, source.agent
    changed = asyncio.Event()
    with contextlib.ExitStack() as watching:
        watching.enter_context(book.notifying(agent, changed))
        try:
            for name in positions:
                file = book.output.file_name(agent.id, name)
                watching.enter_context(source.watches.watching(file, changed))
        except OSError as exc:
            raise ResourceExhaustedError(
                f"the kernel gives no further file watch: {exc.strerror}",
                hint="raise fs.inotify.max_user_watches or max_user_instances (sysctl)",
            ) from exc
        stream.open()
        for chunk in first:
            await stream.push(chunk, len(chunk.data))
        while True:
            changed.clear()
            # Asked before the read: an end seen after it might have come with unread bytes.
            complete = agent.is_complete
            moved = False
            for name, offset in positions.items():
                place = Place(name, offset, complete)
                positions[name] = await _push(source.reader, agent, place, manner, stream)
                moved = moved or positions[name] > offset
            if complete and not moved:
                _check_whole(book, agent, positions)
                return
            if not moved:
                await changed.wait()


def _check_whole(book: Book, agent: Agent, positions: dict[StreamName, int]) -> None:
    """Raise NotFoundError when the agent was removed before all of its output was read."""
    totals = {"stdout": agent.output.stdout.total, "stderr": agent.output.stderr.total}
    if book.roster.get(agent.id) is not agent and any(
        position < totals[name] for name, position in positions.items()
    ):
        raise NotFoundError(f"agent '{agent.name}' was removed before its output was read")


async def _positions(reader: Reader, agent: Agent, params: AgentFollow) -> dict[StreamName, int]:
    given = {"stdout": params.offsets.stdout, "stderr": params.offsets.stderr}
    return {
        name: await reader.start(agent, name, given[name], params.tail, params.since)
        for name in params.streams
    }


async def _push(reader: Reader, agent: Agent, place: Place, manner: Manner, stream: Stream) -> int:
    """Push at most one chunk from a place on; where to go on."""
    room = await stream.room()
    if manner.is_plain:
        manner = replace(manner, limit=min(CHUNK, room))
    chunk = await reader.chunk(agent, place, manner)
    if not chunk.data:
        # Only lines nobody wants may have been passed.
        return max(chunk.next_offset, place.offset)
    await stream.push(chunk, len(chunk.data))
    return chunk.next_offset
