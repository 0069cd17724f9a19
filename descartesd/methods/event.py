"""Pushes what happens to a client, under the client's credit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from msgspec import Raw
from msgspec.structs import replace

from descartesd.agents.journal import Journal
from descartesd.errors import InternalError, InvalidArgumentError
from descartesd.methods.call import Call, Handler
from descartesd.methods.sight import owner_filter
from descartesd.transport.streams import Stream
from descartesd.wire import codec
from descartesd.wire.event import Event, EventFollow

# Others get their turn after so many.
_AT_ONCE = 16
# What concerns everybody; what comes from elsewhere is told to who sees everything.
_ABOUT_THE_SERVER = (
    "server_started", "server_stopping", "health_changed", "keeper_upgraded", "heartbeat", "gap",
)  # fmt: skip

Mine = Callable[[str | None], bool]


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
        mine = owner_filter(call.caller, "event.follow")
        call.stream.open()
        await self._push(call.stream, since, mine)

    async def _push(self, stream: Stream, position: int, mine: Mine | None) -> None:
        journal = self._journal
        news = asyncio.Event()
        with journal.waking(news):
            while True:
                news.clear()
                if journal.last and position + 1 < journal.first:
                    position = await self._push_gap(stream, position)
                for number, event in journal.after(position, _AT_ONCE):
                    told = event if mine is None else _seen(event, mine)
                    if told is not None:
                        await stream.push(told, len(memoryview(told)))
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


def _seen(row: Raw, mine: Mine) -> Raw | None:
    """An event as it is told to who sees its own agents only; None where it is not."""
    event = codec.decode_as(Event, row)
    if event.agent_id is not None:
        return row if mine(event.owner) else None
    if event.kind not in _ABOUT_THE_SERVER:
        return None
    # It counts everybody's agents.
    return Raw(codec.encode(replace(event, data={}))) if event.kind == "heartbeat" else row
