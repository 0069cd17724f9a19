"""Takes over what the keeper knows: exits, ends of output, and its list after a start."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from descartesd.agents import record
from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ENDED
from descartesd.agents.record import Agent
from descartesd.keeper.protocol import Status
from descartesd.wire.agent import Outcome, OutputTotals, Reason, State

log = logging.getLogger(__name__)

_LIVE: dict[str, State] = {"running": "running", "paused": "paused", "stopping": "stopping"}


class Facts:
    """Makes the book say what the keeper says."""

    def __init__(self, book: Book, keeper: KeeperLink) -> None:
        self._book = book
        self._keeper = keeper
        keeper.on_event = self.on_keeper_event
        book.registry.on_saved.append(self._settle)
        # Ids of agents whose end the keeper may forget once it is durable here.
        self._over: list[str] = []
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
        if _is_news(agent, status):
            self._apply(agent, status)
            self._book.registry.save_soon()

    def _settle(self) -> None:
        """Let the keeper forget the ends that are durable here."""
        over, self._over = self._over, []
        if over and self._keeper.connected:
            self._keeper.tell("forget", agent_ids=over)

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
        agent.output = self._final_output(agent, status)
        if status["eof"]:
            agent.eof = True
            self._over.append(agent.id)
        if agent.state not in ENDED:
            state, agent.outcome = record.ending(status, stopping=agent.state == "stopping")
            agent.ended_at = status["ended_at"]
            agent.paused_at, agent.pause_mode = None, None
            self._book.set_state(agent, state)
        else:
            self._book.wake(agent)

    def _final_output(self, agent: Agent, status: Status) -> OutputTotals:
        is_whole = max(status["totals"].values()) <= agent.output_bytes
        return record.totals(status, OutputTotals() if is_whole else self._book.views.totals(agent))

    def _dismiss(self, status: Status) -> None:
        """Let the keeper forget an end that nobody here waits for."""
        if status["eof"]:
            self.unknown.discard(status["agent_id"])
            self._keeper.tell("forget", agent_id=status["agent_id"])

    def adopt(self, found: Iterable[tuple[Agent, Status]]) -> None:
        """Take over the keeper's list after a start."""
        for agent, status in found:
            # The end of an agent may have been told while the list was still coming.
            if _is_news(agent, status):
                self._apply(agent, status)
            elif status["eof"]:
                self._over.append(agent.id)
            if agent.state not in ENDED:
                self._book.journal.record(
                    "adopted", agent.id, name=agent.name, state=agent.state, attempt=agent.attempt
                )
        if self._book.registry.save():
            self._settle()

    def lose(self, agent: Agent, reason: Reason) -> None:
        """Nobody knows how the agent ended; one that was being started may never have run."""
        if agent.state == "starting":
            self._book.give_up(agent, "its start was cut short")
            return
        agent.ended_at = self._book.clock()
        agent.outcome = Outcome(reason=reason)
        agent.eof = True
        agent.output = self._book.views.totals(agent)
        agent.paused_at, agent.pause_mode = None, None
        self._book.set_state(agent, "lost")
        self._book.put(agent)

    def close_output(self, agent: Agent) -> None:
        """Nothing writes to the agent's output any more."""
        agent.output = self._book.views.totals(agent)
        agent.eof = True
        self._book.put(agent)
        self._book.wake(agent)


def _is_news(agent: Agent, status: Status) -> bool:
    """Whether something may have happened since what is known here."""
    return agent.state not in ENDED or (status["state"] == "exited" and not agent.eof)
