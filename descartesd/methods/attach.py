"""The methods that make an agent's terminal one's own: attach to it, and set its size."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.follow import Watches
from descartesd.agents.pen import Hand, Pens
from descartesd.agents.record import Agent
from descartesd.agents.replay import Start
from descartesd.errors import ConflictError, InternalError
from descartesd.methods.call import Call, Handler
from descartesd.methods.following import CHUNK, Source, pump
from descartesd.methods.reading import Manner, Reader
from descartesd.methods.sight import find
from descartesd.wire.agent import StreamName
from descartesd.wire.attach import AgentAttach, AgentResize, AttachChunk, AttachOffsets
from descartesd.wire.server import Done


class AttachMethods:
    """One function per method."""

    def __init__(self, book: Book, fleet: Fleet, watches: Watches) -> None:
        self._book = book
        self._fleet = fleet
        self._watches = watches
        self._reader = Reader(book.output)
        self._pens = Pens()

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"agent.attach": self.attach, "agent.resize": self.resize}

    async def attach(self, call: Call, params: AgentAttach) -> None:
        agent = find(self._book.roster, call.caller, params.id, "agent.attach")
        if call.stream is None:
            raise InternalError("agent.attach was called without a stream")
        source = Source(self._book, self._watches, self._reader, agent)
        async with self._pen(agent, call, params):
            starts = await self._starts(agent, params.offsets)
            positions = {start.stream: start.offset for start in starts}
            await pump(source, positions, Manner(CHUNK), call.stream, first=starts)

    async def resize(self, call: Call, params: AgentResize) -> Done:
        agent = find(self._book.roster, call.caller, params.id, "agent.resize")
        await self._fleet.resize(agent, params.rows, params.cols)
        return Done()

    @contextlib.asynccontextmanager
    async def _pen(self, agent: Agent, call: Call, params: AgentAttach) -> AsyncIterator[None]:
        """Hold the agent's pen if it is wanted; raises ConflictError, also once it is stolen."""
        if params.writer is None:
            yield
            return
        taken = asyncio.timeout(None)
        hand = Hand(
            writer=params.writer,
            owner=call.caller.name or call.caller.id,
            is_leaving=_is_cancelled(asyncio.current_task()),
            on_loss=partial(_expire, taken),
        )
        try:
            async with taken:
                with self._pens.held(agent, hand, steal=params.steal):
                    yield
        except TimeoutError:
            if hand.taken_by is None:
                raise
            raise ConflictError(
                f"{hand.taken_by} has taken over agent '{agent.name}'",
                hint="look on with --watch, or take it back with --steal",
            ) from None

    async def _starts(self, agent: Agent, offsets: AttachOffsets) -> list[AttachChunk]:
        """A chunk without data for each stream, telling where it begins."""
        given = {"stdout": offsets.stdout, "stderr": offsets.stderr}
        names: tuple[StreamName, ...] = ("stdout", "stderr")
        if agent.spec.tty is not None:
            names = ("stdout",)
        return [await self._start(agent, name, given[name]) for name in names]

    async def _start(self, agent: Agent, name: StreamName, given: int | None) -> AttachChunk:
        start = Start(given) if given is not None else await self._reader.screen(agent, name)
        known = self._book.output.totals(agent.id, name, kept=agent.output_bytes)
        return AttachChunk(
            stream=name,
            data=b"",
            offset=start.offset,
            next_offset=start.offset,
            total=known.total,
            truncated_before=known.truncated_before,
            eof=False,
            modes=start.modes or None,
        )


def _is_cancelled(task: asyncio.Task[Any] | None) -> Callable[[], object]:
    # Told at once, while the task itself learns of it only when it runs again.
    return task.cancelling if task is not None else bool


def _expire(timeout: asyncio.Timeout) -> None:
    timeout.reschedule(asyncio.get_running_loop().time())
