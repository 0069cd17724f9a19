"""What can be done with agents: the verbs, each as the table of states allows it."""

from __future__ import annotations

import asyncio
import contextlib
import signal as signals
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from descartesd.agents import spec
from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ALIVE, ENDED, STARTED, WAITING, require
from descartesd.agents.record import Agent
from descartesd.agents.starting import FleetOptions, Starts
from descartesd.agents.turns import Turns
from descartesd.errors import (
    AbortedError,
    ConflictError,
    DescartesError,
    NotFoundError,
)
from descartesd.wire.agent import AgentInfo, Reason, State, Tty

_ENDED_BY: dict[str, Reason] = {"stop": "stopped", "kill": "killed"}
# The states a verb needs; of the others, remove and respawn need an end, stop and kill nothing.
_NEEDED: dict[str, tuple[State, ...]] = {
    "pause": ("running", "paused"),
    "resume": ("running", "paused"),
    "signal": ("running", "paused", "stopping"),
    "write": ("running", "paused", "stopping"),
    "resize": ("running", "paused", "stopping"),
    "say": ("running", "paused", "stopping"),
    "answer": ("running", "paused", "stopping"),
}


class Fleet:
    """Starts, controls and removes agents."""

    def __init__(self, book: Book, keeper: KeeperLink, options: FleetOptions) -> None:
        self._book = book
        self._keeper = keeper
        self.starts = Starts(book, keeper, options)
        self.turns = Turns(book, keeper, self.starts)
        # Ids of agents that are being removed.
        self._going: set[str] = set()

    async def renew(self, agent: Agent, check: Callable[[], None]) -> None:
        """Begin a further attempt of an ended agent, not yet durable: id, name and output stay.

        Raises ConflictError while it lives, NotFoundError when it is removed meanwhile,
        AbortedError, ResourceExhaustedError, UnavailableError, and what `check` raises right before
        it begins.
        """
        self.check(agent, "respawn")
        self.starts.admit(agent.owner)
        # Its pipes may still be open: what they carry belongs to the attempt before.
        await self._book.holds(agent, lambda: agent.eof)
        # Until then the keeper alone would know of that end after a crash.
        await self._book.registry.durable()
        await self._keeper.request("forget", agent_id=agent.id)
        self.check(agent, "respawn")
        check()
        self.starts.renew(agent)

    def check(self, agent: Agent, verb: str) -> None:
        """Raise the ConflictError with which the agent's state would refuse this verb now."""
        if verb in ("remove", "respawn"):
            self._require_idle(agent, verb)
        elif verb in _NEEDED:
            require(agent.name, agent.state, verb=verb, allowed=_NEEDED[verb])

    async def pause(self, agent: Agent) -> None:
        """Freeze every process of the agent; returns when none of them runs any more."""
        self.check(agent, "pause")
        if agent.state == "paused" and agent.pause_mode != "cooperative":
            return
        self._book.registry.check()
        reply = await self._keeper.request("pause", agent_id=agent.id)
        if agent.state in ("running", "paused"):
            agent.paused_at = self._book.clock()
            agent.pause_mode = "cgroup" if reply.get("mode") == "cgroup" else "tree"
            if agent.state == "running":
                self._book.set_state(agent, "paused")
            self._book.put(agent)
            await self._book.settled()

    async def resume(self, agent: Agent) -> None:
        """Let a paused agent go on."""
        self.check(agent, "resume")
        if agent.state == "running":
            return
        self._book.registry.check()
        await self._keeper.request("resume", agent_id=agent.id)
        self._note_resumed(agent)
        await self._book.settled()

    def _note_resumed(self, agent: Agent) -> None:
        if agent.state == "paused":
            agent.paused_at, agent.pause_mode = None, None
            self._book.set_state(agent, "running")
            self._book.put(agent)

    async def stop(self, agent: Agent, signal: int | None, grace_s: float | None) -> AgentInfo:
        """Stop in order; the agent as it ended, once nothing of it is left."""
        number = signal or spec.signal_number(agent.spec.stop.signal)
        grace = agent.spec.stop.grace_s if grace_s is None else grace_s
        return await self._end(agent, "stop", signal=number, grace_s=grace)

    async def kill(self, agent: Agent) -> AgentInfo:
        """Kill every process of the agent; the agent as it ended, once nothing of it is left."""
        return await self._end(agent, "kill")

    async def _end(self, agent: Agent, op: str, **fields: object) -> AgentInfo:
        ended = await self._ending(agent, op, fields)
        # What it started may take a moment longer than its first process.
        await self._book.holds(agent, lambda: agent.eof or agent.attempt != ended.attempt)
        with contextlib.suppress(DescartesError):
            # Until then the keeper alone would know of the end after a crash.
            await self._book.registry.durable()
            if agent.attempt == ended.attempt:
                await self._keeper.request("forget", agent_id=agent.id)
        return ended

    async def _ending(self, agent: Agent, op: str, fields: dict[str, object]) -> AgentInfo:
        if agent.state in WAITING and agent.id not in self._book.queue.taken:
            self._book.cancel(agent, _ENDED_BY[op])
            return await self.ended(agent)
        if agent.state not in ENDED:
            agent.halted, agent.halt_reason = True, _ENDED_BY[op]
        reservation = self.starts.reserved.get(agent.id)
        if reservation is not None:
            reservation.is_cancelled = True
        await self._book.until(agent, ENDED | STARTED)
        if agent.state not in STARTED:
            return await self.ended(agent)
        # Waited for from here on: it may have been respawned by the time the keeper answers.
        end = self._book.end_of(agent)
        taken = self._keeper.request(op, agent_id=agent.id, **fields)
        taken.add_done_callback(partial(self._note_stopping, agent))
        try:
            # The keeper goes on with it, whoever still waits for its answer.
            await asyncio.shield(taken)
        except DescartesError as exc:
            # Only then is it certain that nothing of it was done.
            agent.halted = isinstance(exc, AbortedError)
            raise
        return await self._told(agent, await end)

    def end_waiting(self) -> None:
        """End every agent that waits for a restart, and let none be restarted from now on."""
        for agent in list(self._book.roster):
            if agent.state == "backoff" and agent.id not in self._book.queue.asked:
                self._book.cancel(agent, "stopped")
            elif agent.state not in ENDED and agent.state != "queued":
                agent.halted, agent.halt_reason = True, "stopped"

    def kill_all(self) -> None:
        """Kill every agent now, without waiting for their ends."""
        for agent in self._book.roster:
            if agent.state in ALIVE:
                self._keeper.tell("kill", agent_id=agent.id)

    def _note_stopping(self, agent: Agent, taken: asyncio.Future[dict[str, object]]) -> None:
        # Not before the keeper has taken it on: a crash in between would leave the record of an
        # end that nobody works on.
        if taken.exception() is None and agent.state in ("running", "paused"):
            agent.paused_at, agent.pause_mode = None, None
            self._book.set_state(agent, "stopping")
            self._book.put(agent)

    async def signal(self, agent: Agent, number: int) -> int:
        """Send one signal to every process of the agent; how many it reached."""
        self.check(agent, "signal")
        reply = await self._keeper.request("signal", agent_id=agent.id, signal=number)
        if number == signals.SIGCONT:
            self._note_resumed(agent)
        return int(reply["count"])

    async def write(
        self, agent: Agent, data: bytes, writer: str | None, offset: int | None
    ) -> tuple[int, int | None]:
        """Write to stdin; bytes accepted and the writer's next offset."""
        self.check(agent, "write")
        fields = {} if writer is None else {"writer": writer, "offset": offset or 0}
        reply = await self._keeper.request("write", agent_id=agent.id, data=data, **fields)
        return int(reply["accepted"]), reply.get("offset")

    async def resize(self, agent: Agent, rows: int, cols: int) -> None:
        """Change the size of the agent's terminal, that of further attempts too.

        Raises ConflictError where it has none.
        """
        self.check(agent, "resize")
        if agent.spec.tty is None:
            raise ConflictError(
                f"agent '{agent.name}' has no terminal",
                hint="spawn it with --tty (spec.tty)",
            )
        await self._keeper.request("resize", agent_id=agent.id, rows=rows, cols=cols)
        if agent.state in STARTED:
            agent.spec = replace(agent.spec, tty=Tty(rows=rows, cols=cols))
            self._book.put(agent)

    async def close_stdin(self, agent: Agent) -> None:
        """Close stdin once it has been read; of an ended agent it is closed already.

        A terminal gets its end-of-file character and stays open.
        """
        if agent.state in ALIVE:
            await self._keeper.request("close_stdin", agent_id=agent.id)

    async def remove(self, agent: Agent) -> None:
        """Forget an ended agent and delete its output; raises ConflictError while it lives."""
        self.check(agent, "remove")
        self._going.add(agent.id)
        try:
            await self._keeper.request("forget", agent_id=agent.id)
            await self._keeper.request("remove", agent_id=agent.id)
            self._book.forget(agent)
            self.starts.secrets.drop(agent.id)
            await self._book.settled()
        finally:
            self._going.discard(agent.id)

    def _require_idle(self, agent: Agent, verb: str) -> None:
        """Raise ConflictError unless the agent has ended and nobody is removing it.

        Raises NotFoundError when it is removed.
        """
        if self._book.roster.get(agent.id) is not agent:
            raise NotFoundError(f"agent '{agent.name}' has been removed")
        if agent.id in self._going:
            raise ConflictError(f"agent '{agent.name}' is being removed")
        if agent.state not in ENDED:
            raise ConflictError(
                f"agent '{agent.name}' is {agent.state}: {verb} needs an agent that has ended",
                hint=f"end it first: descartesctl agent stop {agent.name}",
                details={"state": agent.state},
            )

    async def ended(self, agent: Agent) -> AgentInfo:
        """Wait for the end of the agent's present attempt: the agent as it was then.

        Raises NotFoundError when its start failed.
        """
        return await self._told(agent, await self._book.end_of(agent))

    async def _told(self, agent: Agent, end: AgentInfo | None) -> AgentInfo:
        if end is None:
            raise NotFoundError(f"agent '{agent.name}' could not be started")
        await self._book.settled()
        return end
