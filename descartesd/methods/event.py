"""Pushes what happens to a client, under the client's credit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from descartesd.agents.journal import Journal
from descartesd.errors import InternalError, InvalidArgumentError
from descartesd.methods.call import Call, Handler
from descartesd.transport.streams import Stream
from descartesd.wire import codec
from descartesd.wire.event import Event, EventFollow

# Others get their turn after so many.
_AT_ONCE = 16


class EventMethods:
    """One function per method."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"event.follow": self.follow}

    async def follow(self, call: Call, params: EventFollow) -> None:
        if call.stream is None:
            raise InternalError("event.follow was called without a stream")
        last = self._journal.last
        since = last if params.since is None else params.since
        if since > last:
            raise InvalidArgumentError(
                f"since: there is no event {since} yet, the last one is {last}",
                hint="the server's registry may have been made anew: follow from 0",
            )
        call.stream.open()
        await self._push(call.stream, since)

    async def _push(self, stream: Stream, position: int) -> None:
        journal = self._journal
        news = asyncio.Event()
        with journal.waking(news):
            while True:
                news.clear()
                if journal.last and position + 1 < journal.first:
                    position = await self._push_gap(stream, position)
                for number, event in journal.after(position, _AT_ONCE):
                    await stream.push(event, len(memoryview(event)))
                    position = number
                if position >= journal.last:
                    await news.wait()
                else:
                    await asyncio.sleep(0)

    async def _push_gap(self, stream: Stream, position: int) -> int:
        last = self._journal.first - 1
        gap = Event(
            seq=last,
            time=time.time(),
            kind="gap",
            agent_id=None,
            message=f"{last - position} events are no longer kept",
            data={"missed": last - position},
        )
        await stream.push(gap, len(codec.encode(gap)))
        return last
