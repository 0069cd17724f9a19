"""What can be done with agents: the verbs, each as the table of states allows it."""

from __future__ import annotations

import asyncio
import contextlib
import signal as signals
from dataclasses import dataclass
from functools import partial

from descartesd.agents import spec
from descartesd.agents.book import Book
from descartesd.agents.ids import IdSource, name_for
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ALIVE, ENDED, require
from descartesd.agents.record import Agent
from descartesd.errors import (
    AbortedError,
    AlreadyExistsError,
    ConflictError,
    DescartesError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.wire.agent import AgentInfo, AgentSpec, State

DRAINING = "the server is draining"
_STARTED: frozenset[State] = frozenset(("running", "paused", "stopping"))
# The states a verb needs; of the others, remove and respawn need an end, stop and kill nothing.
_NEEDED: dict[str, tuple[State, ...]] = {
    "pause": ("running", "paused"),
    "resume": ("running", "paused"),
    "signal": ("running", "paused", "stopping"),
    "write": ("running", "paused", "stopping"),
}


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How many agents may be alive, and how they are started."""

    max_agents: int
    runner: spec.RunnerDefaults


@dataclass(slots=True)
class SpawnCounts:
    """Agents asked for since the start."""

    requested: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Reservation:
    """An agent not yet asked for at the keeper."""

    # The connection to the keeper it was made under.
    connection: int
    is_cancelled: bool = False


class Fleet:
    """Starts, controls and removes agents."""

    def __init__(self, book: Book, keeper: KeeperLink, options: FleetOptions) -> None:
        self._book = book
        self._keeper = keeper
        self._options = options
        self._id_source = IdSource(book.clock)
        self.spawns = SpawnCounts()
        self._reserved: dict[str, _Reservation] = {}
        # Ids of agents that are being removed.
        self._going: set[str] = set()
        # Why new agents are refused now; None while they are taken.
        self.closed: str | None = None

    def reserve(self, wanted: AgentSpec, owner: str) -> Agent:
        """Make a new agent's record, not yet durable: id and name are taken from here on.

        Raises InvalidArgumentError, AlreadyExistsError, ResourceExhaustedError, UnavailableError.
        """
        self.spawns.requested += 1
        try:
            return self._reserve(wanted, owner)
        except DescartesError:
            self.spawns.failed += 1
            raise

    def _reserve(self, wanted: AgentSpec, owner: str) -> Agent:
        spec.check(wanted)
        self._admit()
        agent_id = self._id_source.next()
        name = wanted.name or self._free_name(wanted.command[0])
        holder = self._book.roster.names.get(name)
        if holder is not None:
            raise AlreadyExistsError(
                f"the name '{name}' is taken by agent {holder.id}, which is {holder.state}",
                hint=f"take another name, remove it with: descartesctl agent remove {name},"
                " or spawn with --replace",
            )
        agent = Agent(
            id=agent_id,
            name=name,
            owner=owner,
            spec=wanted,
            created_at=self._book.clock(),
            output_bytes=wanted.limits.output_bytes or self._options.runner.output_bytes,
        )
        self._book.add(agent)
        self._reserved[agent.id] = _Reservation(self._keeper.connections)
        return agent

    def _admit(self) -> None:
        """Refuse a further live agent while there may be none."""
        self._book.registry.check()
        if self.closed is not None:
            hint = "ask another server"
            if self.closed == DRAINING:
                hint += ", or end the drain with: descartesctl server drain --undo"
            raise UnavailableError(f"no agent can be started: {self.closed}", hint=hint)
        if not self._keeper.connected:
            raise UnavailableError(
                "no agent can be started: the keeper is not connected",
                hint="see what happened with: descartesctl server health",
            )
        if self._book.alive >= self._options.max_agents:
            raise ResourceExhaustedError(
                f"{self._book.alive} agents are alive and server.max_agents is"
                f" {self._options.max_agents}",
                hint="stop an agent, or raise server.max_agents",
            )

    def _free_name(self, program: str) -> str:
        while (name := name_for(program)) in self._book.roster.names:
            continue
        return name

    async def start(self, agent: Agent) -> None:
        """Start a reserved or renewed agent, once it is durable; cancelled by then, it is ended.

        What the keeper refuses leaves nothing of a new agent; of a renewed one the attempt failed.
        Raises what the keeper says, AbortedError when the keeper is lost meanwhile and has not
        started it, UnavailableError when the agent cannot be recorded.
        """
        try:
            await self._book.registry.durable()
            if self._take_up(agent).is_cancelled:
                self._book.cancel(agent)
            else:
                await self._launch(agent)
        except AbortedError:
            # Nobody knows what the keeper has started by now: recovery looks, and tells.
            await self._book.until(agent, ENDED | _STARTED)
            if agent.started_at is None:
                self.spawns.failed += 1
                raise
        except DescartesError as exc:
            self.release(agent, exc.message)
            raise
        self.spawns.succeeded += 1

    def _take_up(self, agent: Agent) -> _Reservation:
        reservation = self._reserved.pop(agent.id)
        # After a loss of the keeper recovery gives up every agent it finds not started.
        if reservation.connection != self._keeper.connections:
            raise AbortedError("the keeper was lost before it was asked to start the agent")
        return reservation

    def release(self, agent: Agent, why: str | None = None) -> None:
        """Give up an agent that is not started: nothing is left of a new one, not its name."""
        self._reserved.pop(agent.id, None)
        self.spawns.failed += 1
        self._book.give_up(agent, why)

    async def renew(self, agent: Agent) -> None:
        """Begin a further attempt of an ended agent, not yet durable: id, name and output stay.

        Raises ConflictError while it lives, NotFoundError when it is removed meanwhile,
        AbortedError, ResourceExhaustedError, UnavailableError.
        """
        self.check(agent, "respawn")
        self._admit()
        # Its pipes may still be open: what they carry belongs to the attempt before.
        await self._book.holds(agent, lambda: agent.eof)
        await self._keeper.request("forget", agent_id=agent.id)
        self.check(agent, "respawn")
        self._admit()
        self.spawns.requested += 1
        self._reserved[agent.id] = _Reservation(self._keeper.connections)
        agent.attempt += 1
        agent.pid = agent.start_time = agent.started_at = agent.ended_at = agent.outcome = None
        agent.eof = False
        self._book.set_state(agent, "queued")
        self._book.set_state(agent, "starting")
        self._book.put(agent)

    async def _launch(self, agent: Agent) -> None:
        fields = spec.launch_fields(agent.spec, agent.id, agent.name, self._options.runner)
        started = await self._keeper.request("spawn", attempt=agent.attempt, **fields)
        agent.pid, agent.start_time = int(started["pid"]), int(started["start_time"])
        agent.started_at = started["started_at"]
        # It may have ended already: the exit is told on its own.
        if agent.state == "starting":
            self._book.set_state(agent, "running")
        self._book.put(agent)

    def check(self, agent: Agent, verb: str) -> None:
        """Raise the ConflictError with which the agent's state would refuse this verb now."""
        if verb in ("remove", "respawn"):
            self._require_idle(agent, verb)
        elif verb in _NEEDED:
            require(agent.name, agent.state, verb=verb, allowed=_NEEDED[verb])

    async def try_out(self, wanted: AgentSpec) -> None:
        """Find out whether this could be started, starting nothing; raises as `start` does."""
        spec.check(wanted)
        fields = spec.launch_fields(wanted, "0" * 20, "trial", self._options.runner)
        await self._keeper.request("spawn", attempt=1, trial=True, **fields)

    async def pause(self, agent: Agent) -> None:
        """Freeze every process of the agent; returns when none of them runs any more."""
        self.check(agent, "pause")
        if agent.state == "paused":
            return
        self._book.registry.check()
        reply = await self._keeper.request("pause", agent_id=agent.id)
        if agent.state == "running":
            agent.paused_at, agent.pause_mode = reply.get("paused_at", self._book.clock()), "tree"
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
        reservation = self._reserved.get(agent.id)
        if reservation is not None:
            reservation.is_cancelled = True
        await self._book.until(agent, ENDED | _STARTED)
        if agent.state not in _STARTED:
            return await self.ended(agent)
        # Waited for from here on: it may have been respawned by the time the keeper answers.
        end = self._book.end_of(agent)
        taken = self._keeper.request(op, agent_id=agent.id, **fields)
        taken.add_done_callback(partial(self._note_stopping, agent))
        # The keeper goes on with it, whoever still waits for its answer.
        await asyncio.shield(taken)
        return await self._told(agent, await end)

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

    async def close_stdin(self, agent: Agent) -> None:
        """Close stdin once it has been read; of an ended agent it is closed already."""
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
