"""The methods that read what agents wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from descartesd.agents.fleet import Fleet
from descartesd.agents.follow import Watches
from descartesd.agents.record import Agent
from descartesd.errors import InternalError
from descartesd.methods.call import Call, Handler
from descartesd.methods.following import follow
from descartesd.wire import agent as wire


class OutputMethods:
    """One function per method."""

    def __init__(self, fleet: Fleet, watches: Watches) -> None:
        self._fleet = fleet
        self._watches = watches

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"agent.output": self.output, "agent.follow": self.follow}

    async def output(self, _call: Call, params: wire.AgentOutput) -> wire.OutputChunk:
        agent = self._fleet.roster.resolve(params.id)
        # Asked before the read: an end seen after it might have come with unread bytes.
        complete = agent.eof
        try:
            return await asyncio.to_thread(self._read, agent, params, complete)
        except OSError as exc:
            raise InternalError(f"the output of '{agent.name}' cannot be read: {exc}") from exc

    def _read(self, agent: Agent, params: wire.AgentOutput, complete: bool) -> wire.OutputChunk:
        files = self._fleet.output
        offset = params.offset
        if params.tail is not None:
            offset = files.tail_offset(agent.id, params.stream, params.tail)
        piece = files.read(agent.id, params.stream, offset, params.limit)
        following = piece.offset + len(piece.data)
        return wire.OutputChunk(
            stream=params.stream,
            data=piece.data,
            offset=piece.offset,
            next_offset=following,
            total=piece.total,
            truncated_before=piece.truncated_before,
            eof=complete and following >= piece.total,
            time=piece.time,
        )

    async def follow(self, call: Call, params: wire.AgentFollow) -> None:
        agent = self._fleet.roster.resolve(params.id)
        if call.stream is None:
            raise InternalError("agent.follow was called without a stream")
        await follow(self._fleet, self._watches, agent, params, call.stream)
