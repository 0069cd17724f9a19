"""The book of all agents: their records, and the only way a state changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from msgspec import structs

from descartesd.agents.follow import Waker
from descartesd.agents.journal import Journal
from descartesd.agents.lifecycle import ALIVE, ENDED, WAITING, step
from descartesd.agents.output import OutputFiles
from descartesd.agents.queue import Queue, Timetable
from descartesd.agents.record import Agent
from descartesd.agents.registry import Registry
from descartesd.agents.restart import LEAST_S
from descartesd.agents.roster import Roster
from descartesd.agents.views import Views
from descartesd.errors import UnavailableError
from descartesd.observe.logs import tell
from descartesd.wire.agent import AgentInfo, Outcome, Reason, State
from descartesd.wire.event import EventKind

log = logging.getLogger(__name__)

_KEPT_MAX = 1000
_KINDS: dict[State, EventKind] = {
    "completed": "completed",
    "failed": "error",
    "lost": "error",
    "terminated": "terminated",
}
# Whoever started it has an answer soon; whoever lost it has none.
_LEVELS = {"starting": logging.DEBUG, "lost": logging.WARNING}


class Book:
    """Keeps roster, registry, journal and views in step, and wakes who waits for a change."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        output: OutputFiles,
        server_id: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry
        self.journal = journal
        self.output = output
        self.queue = Queue()
        self.timetable = Timetable()
        self.views = Views(output, self.queue, server_id)
        self.roster = Roster()
        self.clock = clock
        self.alive = 0
        self.queued = 0
        # The same of each owner that has any.
        self.alive_of: Counter[str] = Counter()
        self.queued_of: Counter[str] = Counter()
        # Ends of attempts by the state that followed and the reason; restarts by a policy.
        self.ends: Counter[tuple[State, Reason]] = Counter()
        self.restarts = 0
        # Ids of waiting agents which the daemon before may have had started all the same.
        self.doubtful: set[str] = set()
        # Ids of removed agents that may have left processes on purpose, the last ones.
        self.kept: list[str] = []
        # Called at each change of an agent's state, end of its output, and removal.
        self.on_change: list[Callable[[Agent], None]] = []
        # Told of each change of a state, with the one before, before it is durable.
        self.on_state: Callable[[Agent, State], None] | None = None
        self._wakers: dict[str, set[Waker]] = {}
        self._ends: dict[str, asyncio.Future[AgentInfo | None]] = {}

    def load(self, agents: Iterable[Agent]) -> None:
        """Take over what the registry has, oldest first."""
        self.kept = (self.registry.meta("kept") or "").split()
        for agent in agents:
            self._take(agent)
            if agent.state in WAITING:
                self.wait(agent)
                if agent.is_in_doubt:
                    self.doubtful.add(agent.id)

    def add(self, agent: Agent) -> None:
        """Take in a new agent, whose id and name are free, and tell of it."""
        self._take(agent)
        self.journal.record(
            "status_changed",
            agent.id,
            owner=agent.owner,
            name=agent.name,
            state=agent.state,
            attempt=agent.attempt,
        )
        self.put(agent)

    def _take(self, agent: Agent) -> None:
        self.roster.add(agent)
        self._count(agent.owner, None, agent.state)

    def _count(self, owner: str, previous: State | None, following: State | None) -> None:
        if alive := (following in ALIVE) - (previous in ALIVE):
            self.alive += alive
            _add(self.alive_of, owner, alive)
        if queued := (following == "queued") - (previous == "queued"):
            self.queued += queued
            _add(self.queued_of, owner, queued)

    def wait(self, agent: Agent) -> None:
        """Have a queued agent wait for a slot, and one in backoff for its next start."""
        if agent.state == "queued":
            self.queue.join(agent.id, agent.spec.priority, agent.turn, agent.owner)
            return
        left_s = (agent.next_start_at or 0.0) - self.clock()
        # A clock that was set back keeps nobody waiting.
        most_s = max(2 * agent.spec.restart.max_delay_s, LEAST_S)
        self.timetable.add(agent.id, time.monotonic() + min(max(left_s, 0.0), most_s))
        self.queue.on_turn()

    def _move(self, agent: Agent, previous: State, following: State | None) -> None:
        """Count an agent under its following state, and see to who waits because of it."""
        self._count(agent.owner, previous, following)
        if previous in WAITING:
            self.queue.leave(agent.id)
            self.timetable.discard(agent.id)
        if following not in ALIVE and len(self.queue):
            self.queue.on_turn()
        if following == "backoff":
            self.wait(agent)

    def forget(self, agent: Agent) -> None:
        """Drop an agent and its name, and tell it."""
        if not self.roster.drop(agent):
            return
        self._move(agent, agent.state, None)
        agent.eof = True
        self.registry.drop_agent(agent.id)
        if agent.spec.on_exit == "keep":
            self.set_kept([*self.kept, agent.id])
        self.journal.record(
            "removed", agent.id, owner=agent.owner, name=agent.name, state=agent.state
        )
        self.wake(agent)
        self._tell_end(agent, None)

    def set_kept(self, ids: list[str]) -> None:
        """Remember of which removed agents there may be processes."""
        self.kept = ids[-_KEPT_MAX:]
        self.registry.set_meta("kept", " ".join(self.kept))

    def started(
        self, agent: Agent, attempt: int, *, pid: int, start_time: int, started_at: float
    ) -> None:
        """Note that the keeper has started this attempt of an agent, unless that is known."""
        if agent.attempt != attempt or agent.pid is not None:
            return
        agent.pid, agent.start_time, agent.started_at = pid, start_time, started_at
        agent.next_start_at = None
        if agent.state in WAITING:
            self.set_state(agent, "starting")
        if agent.state == "starting":
            self.set_state(agent, "running")
        self.put(agent)

    def give_up(self, agent: Agent, why: str | None = None) -> None:
        """Note that a start failed: a first one leaves nothing, a further one is an attempt.

        Nothing is left to do where this has been noted already.
        """
        if agent.state in ENDED:
            return
        if agent.attempt == 1:
            self.forget(agent)
        else:
            self.fail_start(agent, why)

    def fail_start(self, agent: Agent, why: str | None) -> None:
        """Note that the start of an agent failed about which somebody has been told."""
        if agent.state in WAITING:
            self.set_state(agent, "starting")
        self._end_unstarted(agent, "failed", Outcome(reason="spawn_error", message=why), why)

    def cancel(self, agent: Agent, reason: Reason) -> None:
        """Note that an agent was ended before it was started again; `cancelled`: at all."""
        if agent.attempt == 1 and agent.started_at is None:
            reason = "cancelled"
        known = agent.outcome or Outcome(reason=reason)
        self._end_unstarted(agent, "terminated", structs.replace(known, reason=reason))

    def _end_unstarted(
        self, agent: Agent, state: State, outcome: Outcome, why: str | None = None
    ) -> None:
        agent.ended_at = self.clock()
        agent.next_start_at = None
        agent.outcome = outcome
        agent.eof = True
        self.set_state(agent, state, why)
        self.put(agent)

    def set_state(self, agent: Agent, following: State, why: str | None = None) -> None:
        """Go to the following state and tell it; `put` must come after the last change."""
        previous = agent.state
        agent.state = step(previous, following)
        self._move(agent, previous, following)
        if agent.outcome is not None and (following in ENDED or following == "backoff"):
            self.ends[following, agent.outcome.reason] += 1
        level = _LEVELS.get(following, logging.INFO)
        if log.isEnabledFor(level):
            tell(log, level, "agent.state", _facts(agent, previous))
        self.journal.record(
            _KINDS.get(following, "status_changed"),
            agent.id,
            owner=agent.owner,
            name=agent.name,
            state=following,
            previous=previous,
            attempt=agent.attempt,
            outcome=agent.outcome,
            message=why,
        )
        self.wake(agent)
        if following in ENDED and agent.id in self._ends:
            self._tell_end(agent, self.views.info(agent))
        if self.on_state is not None:
            self.on_state(agent, previous)

    def put(self, agent: Agent) -> None:
        """Have the record as it is now stored with the next transaction."""
        self.views.changed(agent)
        self.registry.put_agent(agent)

    def wake(self, agent: Agent) -> None:
        """Wake everyone who waits for a change of this agent."""
        self.views.changed(agent)
        for hear in self.on_change:
            hear(agent)
        for waker in self._wakers.get(agent.id, ()):
            waker.set()

    async def settled(self) -> None:
        """Wait until what has been recorded is durable.

        What has happened is told even if that cannot be: the keeper knows it too.
        """
        with contextlib.suppress(UnavailableError):
            await self.registry.durable()

    def end_of(self, agent: Agent) -> asyncio.Future[AgentInfo | None]:
        """The agent as it is at the end of its present attempt, None when it is gone before.

        What comes after that end, a further attempt even, changes nothing of it.
        """
        end = self._ends.get(agent.id)
        if end is None:
            end = asyncio.get_running_loop().create_future()
            if agent.state in ENDED:
                end.set_result(self.views.info(agent))
            elif self.roster.get(agent.id) is not agent:
                end.set_result(None)
            else:
                self._ends[agent.id] = end
        return asyncio.shield(end)

    def _tell_end(self, agent: Agent, end: AgentInfo | None) -> None:
        waiting = self._ends.pop(agent.id, None)
        if waiting is not None:
            waiting.set_result(end)

    async def until(self, agent: Agent, states: frozenset[State]) -> None:
        """Wait until the agent is in one of these states, or is gone."""
        await self.holds(agent, lambda: agent.state in states)

    async def holds(self, agent: Agent, wanted: Callable[[], bool]) -> None:
        """Wait until this is so, or the agent is gone."""
        changed = asyncio.Event()
        with self.notifying(agent, changed):
            while not wanted() and self.roster.get(agent.id) is agent:
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


def _add(counted: Counter[str], owner: str, change: int) -> None:
    counted[owner] += change
    if not counted[owner]:
        del counted[owner]


def _facts(agent: Agent, previous: State) -> dict[str, object]:
    """What a log line says of a change."""
    facts: dict[str, object] = {
        "agent": agent.id,
        "agent_name": agent.name,
        "owner": agent.owner,
        "state": agent.state,
        "previous": previous,
        "attempt": agent.attempt,
    }
    outcome = agent.outcome
    if outcome is not None and agent.state not in ALIVE:
        facts |= {"reason": outcome.reason, "exit_code": outcome.exit_code}
        if outcome.signal is not None:
            facts["signal"] = outcome.signal
    return facts
