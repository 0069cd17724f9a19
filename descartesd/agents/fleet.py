"""All agents of this server: the only place where their states change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal as signals
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from descartesd.agents import record, spec
from descartesd.agents.follow import Waker
from descartesd.agents.ids import IdSource, name_for
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ALIVE, ENDED, require, step
from descartesd.agents.output import OutputFiles
from descartesd.agents.record import Agent
from descartesd.agents.registry import Registry
from descartesd.agents.roster import Roster
from descartesd.agents.views import Views
from descartesd.errors import (
    AbortedError,
    AlreadyExistsError,
    ConflictError,
    DescartesError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.keeper.protocol import Status
from descartesd.wire.agent import AgentSpec, Outcome, Reason, State

log = logging.getLogger(__name__)

_STARTED: frozenset[State] = frozenset(("running", "paused", "stopping"))
_LIVE: dict[str, State] = {"running": "running", "paused": "paused", "stopping": "stopping"}


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """Who this server is and how many agents it may have alive."""

    server_id: str
    max_agents: int
    runner: spec.RunnerDefaults


class Fleet:
    """Agents by id and by name, and what can be done with them."""

    def __init__(
        self,
        registry: Registry,
        keeper: KeeperLink,
        output: OutputFiles,
        options: FleetOptions,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        keeper.on_event = self.on_keeper_event
        self._options = options
        self._clock = clock
        self._id_source = IdSource(clock)
        self.roster = Roster()
        self.views = Views(output, options.server_id)
        self._unsettled: list[tuple[Agent, Status]] = []
        self._wakers: dict[str, set[Waker]] = {}
        self._alive = 0
        self.output = output
        self.draining = False
        # Ids of running agents which the keeper has and the registry does not.
        self.unknown: set[str] = set()

    # -- looking

    def load(self, agents: Iterable[Agent]) -> None:
        """Take over what the registry has, oldest first."""
        for agent in agents:
            self._add(agent)

    # -- changing

    def reserve(self, wanted: AgentSpec, owner: str) -> Agent:
        """Make a new agent's record, not yet durable: id and name are taken from here on.

        Raises InvalidArgumentError, AlreadyExistsError, ResourceExhaustedError, UnavailableError.
        """
        spec.check(wanted)
        self._registry.check()
        if self.draining:
            raise UnavailableError("the server is stopping", hint="ask another server")
        if not self._keeper.connected:
            raise UnavailableError(
                "no agent can be started: the keeper is not connected",
                hint="see what happened with: descartesctl server health",
            )
        if self._alive >= self._options.max_agents:
            raise ResourceExhaustedError(
                f"{self._alive} agents are alive and server.max_agents is"
                f" {self._options.max_agents}",
                hint="stop an agent, or raise server.max_agents",
            )
        agent_id = self._id_source.next()
        name = wanted.name or self._free_name(wanted.command[0])
        holder = self.roster.names.get(name)
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
            created_at=self._clock(),
            output_bytes=wanted.limits.output_bytes or self._options.runner.output_bytes,
        )
        self._add(agent)
        self._put(agent)
        return agent

    def _free_name(self, program: str) -> str:
        while (name := name_for(program)) in self.roster.names:
            continue
        return name

    async def start(self, agent: Agent) -> None:
        """Start a reserved agent; what the keeper refuses leaves nothing.

        Raises what the keeper says, AbortedError when the keeper is lost meanwhile and has not
        started it, UnavailableError when the agent cannot be recorded.
        """
        fields = spec.launch_fields(agent.spec, agent.id, agent.name, self._options.runner)
        try:
            self._registry.commit()
            started = await self._keeper.request("spawn", attempt=agent.attempt, **fields)
        except AbortedError:
            # Nobody knows what the keeper has started by now: recovery looks, and tells.
            await self._until(agent, ENDED | _STARTED)
            if agent.state == "starting":
                raise
            return
        except DescartesError:
            self._forget(agent)
            raise
        self.started(agent, int(started["pid"]), int(started["start_time"]), started["started_at"])

    async def try_out(self, wanted: AgentSpec) -> None:
        """Find out whether this could be started, starting nothing; raises as `start` does."""
        spec.check(wanted)
        fields = spec.launch_fields(wanted, "0" * 20, "trial", self._options.runner)
        await self._keeper.request("spawn", attempt=1, trial=True, **fields)

    def started(self, agent: Agent, pid: int, start_time: int, started_at: float) -> None:
        """Note that the agent's program runs."""
        agent.pid, agent.start_time, agent.started_at = pid, start_time, started_at
        # It may have ended already: the exit is told on its own.
        if agent.state == "starting":
            self._set_state(agent, "running")
        self._put(agent)

    async def pause(self, agent: Agent) -> None:
        """Freeze every process of the agent; returns when none of them runs any more."""
        require(agent.name, agent.state, verb="pause", allowed=("running", "paused"))
        if agent.state == "paused":
            return
        reply = await self._keeper.request("pause", agent_id=agent.id)
        if agent.state == "running":
            agent.paused_at, agent.pause_mode = reply.get("paused_at", self._clock()), "tree"
            self._set_state(agent, "paused")
            self._store(agent)

    async def resume(self, agent: Agent) -> None:
        """Let a paused agent go on."""
        require(agent.name, agent.state, verb="resume", allowed=("running", "paused"))
        if agent.state == "running":
            return
        await self._keeper.request("resume", agent_id=agent.id)
        self._note_resumed(agent)

    def _note_resumed(self, agent: Agent) -> None:
        if agent.state == "paused":
            agent.paused_at, agent.pause_mode = None, None
            self._set_state(agent, "running")
            self._store(agent)

    async def stop(self, agent: Agent, signal: int | None, grace_s: float | None) -> None:
        """Stop in order; returns when the agent has ended."""
        number = signal or spec.signal_number(agent.spec.stop.signal)
        grace = agent.spec.stop.grace_s if grace_s is None else grace_s
        await self._end(agent, "stop", signal=number, grace_s=grace)

    async def kill(self, agent: Agent) -> None:
        """Kill every process of the agent; returns when it has ended."""
        await self._end(agent, "kill")

    async def _end(self, agent: Agent, op: str, **fields: object) -> None:
        if agent.state in ENDED:
            return
        taken = self._keeper.request(op, agent_id=agent.id, **fields)
        taken.add_done_callback(partial(self._note_stopping, agent))
        # The keeper goes on with it, whoever still waits for its answer.
        await asyncio.shield(taken)
        await self.ended(agent)

    def kill_all(self) -> None:
        """Kill every agent now, without waiting for their ends."""
        for agent in self.roster:
            if agent.state in ALIVE:
                _unheeded(self._keeper.request("kill", agent_id=agent.id))

    def _note_stopping(self, agent: Agent, taken: asyncio.Future[dict[str, object]]) -> None:
        # Not before the keeper has taken it on: a crash in between would leave the record of an
        # end that nobody works on.
        if taken.exception() is None and agent.state in ("running", "paused"):
            agent.paused_at, agent.pause_mode = None, None
            self._set_state(agent, "stopping")
            self._store(agent)

    async def signal(self, agent: Agent, number: int) -> int:
        """Send one signal to every process of the agent; how many it reached."""
        require(agent.name, agent.state, verb="signal", allowed=("running", "paused", "stopping"))
        reply = await self._keeper.request("signal", agent_id=agent.id, signal=number)
        if number == signals.SIGCONT:
            self._note_resumed(agent)
        return int(reply["count"])

    async def write(
        self, agent: Agent, data: bytes, writer: str | None, offset: int | None
    ) -> tuple[int, int | None]:
        """Write to stdin; bytes accepted and the writer's next offset."""
        require(agent.name, agent.state, verb="write", allowed=("running", "paused", "stopping"))
        fields = {} if writer is None else {"writer": writer, "offset": offset or 0}
        reply = await self._keeper.request("write", agent_id=agent.id, data=data, **fields)
        return int(reply["accepted"]), reply.get("offset")

    async def close_stdin(self, agent: Agent) -> None:
        """Close stdin once it has been read; of an ended agent it is closed already."""
        if agent.state in ALIVE:
            await self._keeper.request("close_stdin", agent_id=agent.id)

    async def remove(self, agent: Agent) -> None:
        """Forget an ended agent and delete its output; raises ConflictError while it lives."""
        if agent.state not in ENDED:
            raise ConflictError(
                f"agent '{agent.name}' is {agent.state}: only an ended agent can be removed",
                hint=f"end it first: descartesctl agent stop {agent.name}",
                details={"state": agent.state},
            )
        await self._keeper.request("forget", agent_id=agent.id)
        await self._keeper.request("remove", agent_id=agent.id)
        self._forget(agent)

    async def ended(self, agent: Agent) -> None:
        """Wait until the agent is in an end state; raises NotFoundError when its start failed."""
        await self._until(agent, ENDED)
        if agent.state not in ENDED:
            raise NotFoundError(f"agent '{agent.name}' could not be started")

    async def _until(self, agent: Agent, states: frozenset[State]) -> None:
        """Wait until the agent is in one of these states, or is gone."""
        changed = asyncio.Event()
        with self.notifying(agent, changed):
            while agent.state not in states and self.roster.get(agent.id) is agent:
                changed.clear()
                await changed.wait()

    @contextlib.contextmanager
    def notifying(self, agent: Agent, waker: Waker) -> Iterator[None]:
        """Wake `waker` at each change of the agent's state, end of its output, and removal."""
        wakers = self._wakers.setdefault(agent.id, set())
        wakers.add(waker)
        try:
            yield
        finally:
            wakers.discard(waker)
            if not wakers and self._wakers.get(agent.id) is wakers:
                del self._wakers[agent.id]

    # -- facts from the keeper

    def on_keeper_event(self, event: str, status: Status) -> None:
        """Take over a fact the keeper tells: an agent exited, or its output has ended."""
        agent = self.roster.get(status["agent_id"])
        if agent is None or agent.attempt != status["attempt"]:
            log.warning("keeper.unknown_agent", extra={"agent": status["agent_id"]})
            self._dismiss(status)
            return
        log.debug("keeper.event", extra={"agent": agent.id, "event": event})
        if not self._unsettled:
            # Planned before anybody is woken: it is durable before it is told.
            asyncio.get_running_loop().call_soon(self._settle)
        self._unsettled.append((agent, status))
        self.apply(agent, status)

    def _settle(self) -> None:
        """Make all facts of one turn of the loop durable at once, then let the keeper forget."""
        unsettled, self._unsettled = self._unsettled, []
        if self._registry.save():
            for agent, status in unsettled:
                self._acknowledge(agent, status)

    def apply(self, agent: Agent, status: Status) -> None:
        """Make the record say what the keeper says."""
        if agent.pid is None:
            agent.pid, agent.start_time = status["pid"], status["start_time"]
            agent.started_at = status["started_at"]
        if agent.state == "starting":
            self._set_state(agent, "running")
        if status["state"] == "exited":
            self._apply_exit(agent, status)
        elif status["state"] != agent.state:
            agent.paused_at = status["paused_at"]
            agent.pause_mode = "tree" if status["state"] == "paused" else None
            self._set_state(agent, _LIVE[status["state"]])
        self._put(agent)

    def _apply_exit(self, agent: Agent, status: Status) -> None:
        agent.output = record.totals(status, self.views.totals(agent))
        agent.eof = agent.eof or status["eof"]
        if agent.state not in ENDED:
            state, agent.outcome = record.ending(status, stopping=agent.state == "stopping")
            agent.ended_at = status["ended_at"]
            agent.paused_at, agent.pause_mode = None, None
            self._set_state(agent, state)
        else:
            self._wake(agent)

    def _acknowledge(self, agent: Agent, status: Status) -> None:
        # The keeper keeps an exit until it is durable here.
        if status["state"] == "exited" and status["eof"] and self._keeper.connected:
            _unheeded(self._keeper.request("forget", agent_id=agent.id))

    def _dismiss(self, status: Status) -> None:
        """Let the keeper forget an end that nobody here waits for."""
        if status["eof"]:
            self.unknown.discard(status["agent_id"])
            _unheeded(self._keeper.request("forget", agent_id=status["agent_id"]))

    def adopt(self, found: Iterable[tuple[Agent, Status]]) -> None:
        """Take over the keeper's list after a start."""
        agreed = []
        for agent, status in found:
            # The end of an agent may have been told while the list was still coming.
            if agent.state not in ENDED or (status["state"] == "exited" and not agent.eof):
                self.apply(agent, status)
            agreed.append((agent, status))
        if self._registry.save():
            for agent, status in agreed:
                self._acknowledge(agent, status)

    def lose(self, agent: Agent, reason: Reason) -> None:
        """Nobody knows how the agent ended; one that may never have run leaves nothing."""
        if agent.state == "starting":
            self._forget(agent)
            return
        agent.ended_at = self._clock()
        agent.outcome = Outcome(reason=reason)
        agent.eof = True
        agent.output = self.views.totals(agent)
        agent.paused_at, agent.pause_mode = None, None
        self._set_state(agent, "lost")
        self._put(agent)

    def close_output(self, agent: Agent) -> None:
        """Nothing writes to the agent's output any more."""
        agent.output = self.views.totals(agent)
        agent.eof = True
        self._put(agent)
        self._wake(agent)

    # -- inside

    def _add(self, agent: Agent) -> None:
        self.roster.add(agent)
        if agent.state in ALIVE:
            self._alive += 1

    def _forget(self, agent: Agent) -> None:
        if not self.roster.drop(agent):
            return
        if agent.state in ALIVE:
            self._alive -= 1
        agent.eof = True
        self._registry.drop_agent(agent.id)
        self._registry.save()
        self._wake(agent)

    def _set_state(self, agent: Agent, following: State) -> None:
        was_alive = agent.state in ALIVE
        agent.state = step(agent.state, following)
        self._alive += (agent.state in ALIVE) - was_alive
        log.info("agent.state", extra={"agent": agent.id, "state": following})
        self._wake(agent)

    def _put(self, agent: Agent) -> None:
        self.views.changed(agent)
        self._registry.put_agent(agent)

    def _store(self, agent: Agent) -> None:
        # What has happened is told even if it cannot be recorded: the keeper knows it too.
        self._put(agent)
        self._registry.save()

    def _wake(self, agent: Agent) -> None:
        self.views.changed(agent)
        for waker in self._wakers.get(agent.id, ()):
            waker.set()


def _unheeded(future: asyncio.Future[dict[str, object]]) -> None:
    """Ask without waiting: a refusal only means the keeper is gone, which is told on its own."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
