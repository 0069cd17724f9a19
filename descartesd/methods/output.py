"""The methods that read what agents wrote."""

from __future__ import annotations

from collections.abc import Mapping

from descartesd.agents.book import Book
from descartesd.agents.follow import Watches
from descartesd.errors import InternalError
from descartesd.methods.call import Call, Handler
from descartesd.methods.following import Source, follow
from descartesd.methods.reading import Manner, Place, Reader, search_of
from descartesd.methods.sight import find
from descartesd.wire import agent as wire


class OutputMethods:
    """One function per method."""

    def __init__(self, book: Book, watches: Watches) -> None:
        self._book = book
        self._watches = watches
        self._reader = Reader(book.output)

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"agent.output": self.output, "agent.follow": self.follow}

    async def output(self, call: Call, params: wire.AgentOutput) -> wire.OutputChunk:
        agent = find(self._book.roster, call.caller, params.id, "agent.output")
        search = await search_of(params.regex)
        # Asked before the read: an end seen after it might have come with unread bytes.
        complete = agent.is_complete
        offset = await self._reader.start(
            agent, params.stream, params.offset, params.tail, params.since
        )
        manner = Manner(params.limit, params.lines, search, params.timestamps)
        return await self._reader.chunk(agent, Place(params.stream, offset, complete), manner)

    async def follow(self, call: Call, params: wire.AgentFollow) -> None:
        agent = find(self._book.roster, call.caller, params.id, "agent.follow")
        if call.stream is None:
            raise InternalError("agent.follow was called without a stream")
        source = Source(self._book, self._watches, self._reader, agent)
        await follow(source, params, call.stream)
