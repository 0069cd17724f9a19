"""Pushes an agent's output to a client as it comes, under the client's credit."""

from __future__ import annotations

import asyncio
import contextlib

from descartesd.agents.fleet import Fleet
from descartesd.agents.follow import Watches
from descartesd.agents.record import Agent
from descartesd.errors import InternalError, NotFoundError, ResourceExhaustedError
from descartesd.transport.streams import Stream
from descartesd.wire.agent import AgentFollow, OutputChunk, StreamName

CHUNK = 65_536


async def follow(
    fleet: Fleet, watches: Watches, agent: Agent, params: AgentFollow, stream: Stream
) -> None:
    """Push everything from the wanted offsets until every wanted stream has ended.

    Raises NotFoundError when the agent is removed meanwhile, ResourceExhaustedError when the
    kernel gives no further watch.
    """
    positions = await _positions(fleet, agent, params)
    changed = asyncio.Event()
    with contextlib.ExitStack() as watching:
        watching.enter_context(fleet.notifying(agent, changed))
        try:
            for name in positions:
                file = fleet.output.file_name(agent.id, name)
                watching.enter_context(watches.watching(file, changed))
        except OSError as exc:
            raise ResourceExhaustedError(
                f"the kernel gives no further file watch: {exc.strerror}",
                hint="raise fs.inotify.max_user_watches or max_user_instances (sysctl)",
            ) from exc
        stream.open()
        while True:
            changed.clear()
            # Asked before the read: an end seen after it might have come with unread bytes.
            complete = agent.eof
            moved = await _push_all(fleet, agent, positions, stream, complete=complete)
            if complete and not moved:
                _check_whole(fleet, agent, positions)
                return
            if not moved:
                await changed.wait()


def _check_whole(fleet: Fleet, agent: Agent, positions: dict[StreamName, int]) -> None:
    """Raise NotFoundError when the agent was removed before all of its output was read."""
    totals = {"stdout": agent.output.stdout.total, "stderr": agent.output.stderr.total}
    if fleet.roster.get(agent.id) is not agent and any(
        position < totals[name] for name, position in positions.items()
    ):
        raise NotFoundError(f"agent '{agent.name}' was removed before its output was read")


async def _positions(fleet: Fleet, agent: Agent, params: AgentFollow) -> dict[StreamName, int]:
    if params.tail is None:
        given = {"stdout": params.offsets.stdout, "stderr": params.offsets.stderr}
        return {name: given[name] for name in params.streams}
    return {
        name: await asyncio.to_thread(fleet.output.tail_offset, agent.id, name, params.tail)
        for name in params.streams
    }


async def _push_all(
    fleet: Fleet,
    agent: Agent,
    positions: dict[StreamName, int],
    stream: Stream,
    *,
    complete: bool,
) -> bool:
    """Push at most one chunk of each stream, in turn; False when there was nothing."""
    moved = False
    for name, position in positions.items():
        room = await stream.room()
        try:
            piece = await asyncio.to_thread(
                fleet.output.read, agent.id, name, position, min(CHUNK, room)
            )
        except OSError as exc:
            raise InternalError(f"the output of '{agent.name}' cannot be read: {exc}") from exc
        if not piece.data:
            continue
        following = piece.offset + len(piece.data)
        chunk = OutputChunk(
            stream=name,
            data=piece.data,
            offset=piece.offset,
            next_offset=following,
            total=piece.total,
            truncated_before=piece.truncated_before,
            eof=complete and following >= piece.total,
            time=piece.time,
        )
        await stream.push(chunk, len(piece.data))
        positions[name] = following
        moved = True
    return moved
