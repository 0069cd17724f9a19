"""Takes over what the keeper knows: exits, ends of output, and its list after a start."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import structs

from descartesd.agents import record, restart
from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ALIVE, WAITING
from descartesd.agents.record import Agent
from descartesd.keeper.protocol import Status
from descartesd.wire.agent import Outcome, OutputTotals, Reason, State

log = logging.getLogger(__name__)

HearOut = Callable[[Agent, Status, Callable[[], None]], None]

_LIVE: dict[str, State] = {"running": "running", "paused": "paused", "stopping": "stopping"}


class Facts:
    """Makes the book say what the keeper says."""

    def __init__(
        self, book: Book, keeper: KeeperLink, *, draw: Callable[[], float] = random.random
    ) -> None:
        """`draw` gives numbers from 0 to 1, which spread the restarts of many agents."""
        self._draw = draw
        self._book = book
        self._keeper = keeper
        keeper.on_event = self.on_keeper_event
        book.registry.on_saved.append(self._settle)
        # How the end of an agent is put off until all it said before is known.
        self.hear_out: HearOut = _at_once
        # By id: the ends that are put off now.
        self._put_off: dict[str, Status] = {}
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
            self._take(agent, status)
        else:
            self._recount(agent, status)
            if status["eof"]:
                self._over.append(agent.id)

    def _take(self, agent: Agent, status: Status) -> None:
        # At once, whenever its end is noted: nobody may start it again meanwhile.
        self._book.started(
            agent,
            status["attempt"],
            pid=status["pid"],
            start_time=status["start_time"],
            started_at=status["started_at"],
        )
        if status["state"] != "exited":
            self._apply(agent, status)
            return

        def apply() -> None:
            self._put_off.pop(agent.id, None)
            if agent.attempt == status["attempt"] and _is_news(agent, status):
                self._apply(agent, status)

        if not agent.is_over:
            self._put_off[agent.id] = status
        self.hear_out(agent, status, apply)

    def _settle(self) -> None:
        """Let the keeper forget the ends that are durable here."""
        over, self._over = self._over, []
        if over and self._keeper.connected:
            self._keeper.tell("forget", agent_ids=over)

    def _apply(self, agent: Agent, status: Status) -> None:
        # A keeper older than this daemon knows of neither.
        agent.limits_enforced = status.get("limits_enforced", {})
        if status["state"] == "exited":
            self._apply_exit(agent, status)
        elif status["state"] != agent.state and not _has_paused_itself(agent, status):
            agent.paused_at = status["paused_at"]
            agent.pause_mode = _pause_mode(status) if status["state"] == "paused" else None
            self._book.set_state(agent, _LIVE[status["state"]])
        self._book.put(agent)
        self._book.registry.save_soon()

    def _apply_exit(self, agent: Agent, status: Status) -> None:
        agent.output = self._final_output(agent, status)
        if status["eof"]:
            agent.eof = True
            self._over.append(agent.id)
        if not agent.is_over:
            agent.ended_at = status["ended_at"]
            state, outcome = record.ending(
                status,
                stopping=agent.state == "stopping",
                no_result=agent.report is not None and agent.report.lacks_result,
            )
            self._conclude(agent, state, outcome)
        else:
            self._recount(agent, status)
            self._book.wake(agent)

    def _recount(self, agent: Agent, status: Status) -> None:
        """Take over how many were left, where more were found after the end was told."""
        outcome = agent.outcome
        if outcome is not None and outcome.leftovers < status["leftovers"]:
            agent.outcome = structs.replace(outcome, leftovers=status["leftovers"])
            self._book.put(agent)
            self._book.registry.save_soon()

    def _conclude(self, agent: Agent, state: State, outcome: Outcome) -> None:
        """Note how an attempt ended, and what follows by the agent's restart policy."""
        agent.outcome = outcome
        agent.paused_at, agent.pause_mode = None, None
        policy = agent.spec.restart
        is_final = agent.halted or agent.state == "stopping"
        if is_final or not restart.is_wanted(policy, state, outcome.reason):
            self._book.set_state(agent, state)
            return
        ended_at = agent.ended_at or self._book.clock()
        following = restart.following(
            policy,
            in_a_row=agent.restarts_in_a_row,
            ran_s=ended_at - (agent.started_at or ended_at),
            draw=self._draw(),
        )
        if following is None:
            why = f"gave up after {agent.restarts_in_a_row} restarts in a row"
            agent.outcome = structs.replace(outcome, reason="gave_up", message=why)
            self._book.set_state(agent, "failed", why)
            return
        agent.restarts_in_a_row = following.in_a_row
        agent.next_start_at = ended_at + following.delay_s
        self._book.set_state(agent, "backoff", f"starts again in {following.delay_s:.3g} s")

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
                self._take(agent, status)
            elif status["eof"]:
                self._recount(agent, status)
                self._over.append(agent.id)
            elif status["state"] != "exited":
                # Ended by a person while nobody knew that it had been started.
                self._keeper.tell("kill", agent_id=agent.id)
            if agent.state in ALIVE and status["state"] != "exited":
                self._book.journal.record(
                    "adopted",
                    agent.id,
                    owner=agent.owner,
                    name=agent.name,
                    state=agent.state,
                    attempt=agent.attempt,
                )
        if self._book.registry.save():
            self._settle()

    def lose(self, agent: Agent, reason: Reason) -> None:
        """Nobody knows how the agent ended; one that was being started may never have run."""
        if agent.state in WAITING:
            self._cut_short(agent)
            return
        if agent.state == "starting":
            self._book.give_up(agent, "its start was cut short")
            return
        output = self._book.views.totals(agent)
        known = self._put_off.get(agent.id)
        if known is not None:
            # How it ended is known, and nothing more of it comes.
            totals = {"stdout": output.stdout.total, "stderr": output.stderr.total}
            self._take(agent, {**known, "eof": True, "totals": totals})
            return
        agent.ended_at = self._book.clock()
        agent.eof = True
        agent.output = output
        self._conclude(agent, "lost", Outcome(reason=reason))
        self._book.put(agent)

    def _cut_short(self, agent: Agent) -> None:
        if agent.halted:
            self._book.cancel(agent, agent.halt_reason)
        elif agent.spec.restart.policy == "never":
            self._book.fail_start(agent, "its start was cut short")
        else:
            # Had it run, it would be started again as well.
            agent.asked_attempt = 0
            self._book.put(agent)
            self._book.queue.leave(agent.id)
            self._book.wait(agent)

    def close_output(self, agent: Agent) -> None:
        """Nothing writes to the agent's output any more."""
        agent.output = self._book.views.totals(agent)
        agent.eof = True
        self._book.put(agent)
        self._book.wake(agent)


def _at_once(_agent: Agent, _status: Status, apply: Callable[[], None]) -> None:
    apply()


def _has_paused_itself(agent: Agent, status: Status) -> bool:
    """Whether it does nothing though the keeper has not stopped it."""
    return agent.pause_mode == "cooperative" and status["state"] == "running"


def _pause_mode(status: Status) -> Literal["cgroup", "tree"]:
    return "cgroup" if status.get("pause_mode") == "cgroup" else "tree"


def _is_news(agent: Agent, status: Status) -> bool:
    """Whether something may have happened since what is known here."""
    return not agent.is_over or (status["state"] == "exited" and not agent.eof)
