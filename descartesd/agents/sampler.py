"""Looks, on one tick for all agents, at how much they have written and what they use."""

from __future__ import annotations

import asyncio
import os
import time

from descartesd.agents.book import Book
from descartesd.agents.lifecycle import ALIVE
from descartesd.agents.record import Agent
from descartesd.agents.titles import SEARCHED, last_title
from descartesd.agents.use import Use
from descartesd.wire.agent import OutputTotals

TICK_S = 1.0
# A directory changed so recently may change again without its time telling (ext4: 4 ms).
_RECENT_NS = 50_000_000
_NOTHING = OutputTotals()


class Sampler:
    """Keeps the sizes of output in the records, and tells followers of new output.

    Only agents whose files are known to exist are looked at: a thousand that write nothing cost
    one look at the directory.
    """

    def __init__(
        self, book: Book, directory: str, use: Use, *, updates_every_s: float | None
    ) -> None:
        """`updates_every_s`: how often events tell of an agent's output at most; None: never."""
        self._book = book
        self._directory = directory
        self._use = use
        self._updates_every_s = updates_every_s
        self._directory_time = -1
        # Whose output has grown since an event told of it, and until when no event may.
        self._grown: set[str] = set()
        self._quiet: dict[str, float] = {}

    async def run(self) -> None:
        """Sample for ever."""
        next_heartbeat = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            self.sample()
            self._use.tick()
            every_s = self._updates_every_s
            # On a full disk nothing may pile up that can be told as well later.
            if every_s is None or not self._book.journal.is_followed or self._book.registry.problem:
                self._grown.clear()
                continue
            now = time.monotonic()
            self._tell(now, every_s)
            if now >= next_heartbeat:
                next_heartbeat = now + every_s
                self._book.journal.record("heartbeat", data={"agents": self._book.roster.counts()})

    def sample(self) -> None:
        """Take every size that may have changed into the records."""
        is_new = self._has_new_files()
        for agent in self._book.roster:
            if agent.eof or agent.id in self._book.queue:
                # Nothing writes for who waits for a slot.
                continue
            if is_new or agent.output != _NOTHING:
                self._look_at(agent)

    def _look_at(self, agent: Agent) -> None:
        totals = self._book.views.totals(agent)
        if totals != agent.output:
            agent.output = totals
            if agent.spec.tty is not None:
                self._look_for_title(agent)
            self._book.views.changed(agent)
            self._grown.add(agent.id)

    def _look_for_title(self, agent: Agent) -> None:
        start = max(agent.output.stdout.total - SEARCHED, 0)
        try:
            piece = self._book.output.read(agent.id, "stdout", start, SEARCHED)
        except OSError:
            # It is told the better by the next look.
            return
        title = last_title(piece.data)
        if title is not None:
            agent.title = title or None

    def _has_new_files(self) -> bool:
        try:
            changed_at = os.stat(self._directory).st_mtime_ns
        except OSError:
            return False
        is_new = changed_at != self._directory_time
        is_settled = time.time_ns() - changed_at > _RECENT_NS
        self._directory_time = changed_at if is_settled else -1
        return is_new

    def _tell(self, now: float, every_s: float) -> None:
        self._quiet = {each: until for each, until in self._quiet.items() if until > now}
        for agent_id in self._grown - self._quiet.keys():
            self._grown.discard(agent_id)
            agent = self._book.roster.get(agent_id)
            if agent is None or agent.state not in ALIVE:
                continue
            self._quiet[agent_id] = now + every_s
            totals = {"stdout": agent.output.stdout.total, "stderr": agent.output.stderr.total}
            self._book.journal.record(
                "output_available",
                agent.id,
                owner=agent.owner,
                name=agent.name,
                state=agent.state,
                data=totals,
            )
