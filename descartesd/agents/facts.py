"""Takes over what the keeper knows: exits, ends of output, and its list after a start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from descartesd.agents import record
from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ENDED
from descartesd.agents.record import Agent
from descartesd.keeper.protocol import Status
from descartesd.wire.agent import Outcome, Reason, State

log = logging.getLogger(__name__)

_LIVE: dict[str, State] = {"running": "running", "paused": "paused", "stopping": "stopping"}


class Facts:
    """Makes the book say what the keeper says."""

    def __init__(self, book: Book, keeper: KeeperLink) -> None:
        self._book = book
        self._keeper = keeper
        keeper.on_event = self.on_keeper_event
        self._unsettled: list[tuple[Agent, Status]] = []
        # Ids of running agents which the keeper has and the registry does not.
        self.unknown: set[str] = set()

    def on_keeper_event(self, event: str, status: Status) -> None:
        """Take over a fact the keeper tells: an agent exited, or its output has ended."""
        agent = self._book.roster.get(status["agent_id"])
        if agent is None or agent.attempt != status["attempt"]:
            log.warning("keeper.unknown_agent", extra={"agent": status["agent_id"]})
            self._dismiss(status)
            return
        log.debug("keeper.event", extra={"agent": agent.id, "event": event})
        if not self._unsettled:
            # Planned before anybody is woken: it is durable before it is told.
            asyncio.get_running_loop().call_soon(self._settle)
        self._unsettled.append((agent, status))
        self._apply(agent, status)

    def _settle(self) -> None:
        """Make all facts of one turn of the loop durable at once, then let the keeper forget."""
        unsettled, self._unsettled = self._unsettled, []
        if self._book.registry.save():
            for agent, status in unsettled:
                self._acknowledge(agent, status)

    def _apply(self, agent: Agent, status: Status) -> None:
        if agent.pid is None:
            agent.pid, agent.start_time = status["pid"], status["start_time"]
            agent.started_at = status["started_at"]
        if agent.state == "starting":
            self._book.set_state(agent, "running")
        if status["state"] == "exited":
            self._apply_exit(agent, status)
        elif status["state"] != agent.state:
            agent.paused_at = status["paused_at"]
            agent.pause_mode = "tree" if status["state"] == "paused" else None
            self._book.set_state(agent, _LIVE[status["state"]])
        self._book.put(agent)

    def _apply_exit(self, agent: Agent, status: Status) -> None:
        agent.output = record.totals(status, self._book.views.totals(agent))
        agent.eof = agent.eof or status["eof"]
        if agent.state not in ENDED:
            state, agent.outcome = record.ending(status, stopping=agent.state == "stopping")
            agent.ended_at = status["ended_at"]
            agent.paused_at, agent.pause_mode = None, None
            self._book.set_state(agent, state)
        else:
            self._book.wake(agent)

    def _acknowledge(self, agent: Agent, status: Status) -> None:
        # The keeper keeps an exit until it is durable here.
        if status["state"] == "exited" and status["eof"] and self._keeper.connected:
            self._keeper.tell("forget", agent_id=agent.id)

    def _dismiss(self, status: Status) -> None:
        """Let the keeper forget an end that nobody here waits for."""
        if status["eof"]:
            self.unknown.discard(status["agent_id"])
            self._keeper.tell("forget", agent_id=status["agent_id"])

    def adopt(self, found: Iterable[tuple[Agent, Status]]) -> None:
        """Take over the keeper's list after a start."""
        agreed = []
        for agent, status in found:
            # The end of an agent may have been told while the list was still coming.
            if agent.state not in ENDED or (status["state"] == "exited" and not agent.eof):
                self._apply(agent, status)
            if agent.state not in ENDED:
                self._book.journal.record(
                    "adopted", agent.id, name=agent.name, state=agent.state, attempt=agent.attempt
                )
            agreed.append((agent, status))
        if self._book.registry.save():
            for agent, status in agreed:
                self._acknowledge(agent, status)

    def lose(self, agent: Agent, reason: Reason) -> None:
        """Nobody knows how the agent ended; one that may never have run leaves nothing."""
        if agent.state == "starting" and agent.attempt == 1:
            self._book.forget(agent)
            return
        agent.ended_at = self._book.clock()
        agent.outcome = Outcome(reason=reason)
        agent.eof = True
        agent.output = self._book.views.totals(agent)
        agent.paused_at, agent.pause_mode = None, None
        self._book.set_state(agent, "failed" if agent.state == "starting" else "lost")
        self._book.put(agent)

    def close_output(self, agent: Agent) -> None:
        """Nothing writes to the agent's output any more."""
        agent.output = self._book.views.totals(agent)
        agent.eof = True
        self._book.put(agent)
        self._book.wake(agent)
