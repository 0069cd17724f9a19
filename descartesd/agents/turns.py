"""Starts those who wait: queued agents as slots become free, others when their restart is due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import WAITING
from descartesd.agents.record import Agent
from descartesd.agents.starting import Starts
from descartesd.errors import AbortedError, DescartesError

log = logging.getLogger(__name__)

# Others get their turn of the loop after so many starts.
_AT_ONCE = 16


class Turns:
    """One task gives out all turns, by the book's queue and its timetable.

    Until the keeper has started an agent its record says that it waits, and from before it is
    asked also for which attempt. So a daemon that dies meanwhile leaves nothing in doubt: the
    keeper has this attempt of it, or it waits on; and if the keeper died too, it is known of which
    agents nobody can say whether they ran.
    """

    def __init__(self, book: Book, keeper: KeeperLink, starts: Starts) -> None:
        self._book = book
        self._keeper = keeper
        self._starts = starts
        self._changed = asyncio.Event()
        # The connection to the keeper on which both have agreed on every agent.
        self._agreed_on = 0
        self._has_unsaved = False
        book.queue.on_turn = self._changed.set
        book.registry.on_saved.append(self._on_saved)

    def keeper_is_ready(self) -> None:
        """Book and keeper have agreed on every agent."""
        self._agreed_on = self._keeper.connections
        self._changed.set()

    def look(self) -> None:
        """See whether there is room for more now."""
        self._changed.set()

    async def run(self) -> None:
        """Give out turns for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                self._line_up_due()
                await self._give(group)
                await self._until_changed()

    def _line_up_due(self) -> None:
        for agent_id in self._book.timetable.take_due(time.monotonic()):
            agent = self._book.roster.get(agent_id)
            if agent is not None:
                agent.turn = self._book.queue.next_turn()
                self._book.queue.join(agent_id, agent.spec.priority, agent.turn, agent.owner)

    async def _give(self, group: asyncio.TaskGroup) -> None:
        queue = self._book.queue
        given = 0
        has_room = self._starts.has_room
        while queue.has_turn(has_room) and self._starts.has_slot and self._may_start():
            agent = self._book.roster.get(queue.take(has_room))
            if agent is not None:
                group.create_task(self._start(agent), name=f"start of {agent.id}")
            given += 1
            if given % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _may_start(self) -> bool:
        return self._starts.closed is None and self._can_ask(self._agreed_on)

    def _can_ask(self, connection: int) -> bool:
        self._has_unsaved = self._book.registry.problem is not None
        is_same = self._keeper.connected and self._keeper.connections == connection
        return is_same and not self._has_unsaved

    def _on_saved(self) -> None:
        if self._has_unsaved:
            self._changed.set()

    async def _until_changed(self) -> None:
        due = self._book.timetable.next_due()
        left_s = None if due is None else max(due - time.monotonic(), 0.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._changed.wait()

    async def _start(self, agent: Agent) -> None:
        connection = self._keeper.connections
        try:
            await self._prepare(agent)
            if agent.state not in WAITING:
                # It was ended meanwhile.
                return
            if agent.halted:
                self._book.cancel(agent, agent.halt_reason)
                return
            self._book.queue.asked.add(agent.id)
            await self._starts.launch(agent)
        except DescartesError as exc:
            if self._can_ask(connection):
                self._fail(agent, exc.message)
            elif not isinstance(exc, AbortedError) or agent.id not in self._book.queue.asked:
                self._put_back(agent)
            # Else nobody knows what the keeper has started by now: recovery looks, and tells.
        except Exception:  # the boundary: one agent that cannot be started keeps no other waiting
            log.exception("start.failed", extra={"agent": agent.id})
            self._fail(agent, "a bug in the server: see its log")

    async def _prepare(self, agent: Agent) -> None:
        """Have the attempt before over and done with, and the one to come recorded."""
        if agent.is_over:
            # Its pipes may still be open: what they carry belongs to that attempt.
            await self._book.holds(agent, lambda: agent.eof)
            # Until then the keeper alone would know of that end after a crash.
            await self._book.registry.durable()
        if agent.attempt > 1 or agent.is_over:
            await self._keeper.request("forget", agent_id=agent.id)
        if agent.state == "backoff" and agent.is_over and not agent.halted:
            agent.begin_attempt()
            agent.restarts += 1
            self._book.restarts += 1
        agent.asked_attempt = agent.attempt
        self._book.put(agent)
        await self._book.registry.durable()

    def _fail(self, agent: Agent, why: str) -> None:
        log.warning("start.refused", extra={"agent": agent.id, "cause": why})
        if agent.state in WAITING:
            self._book.fail_start(agent, why)

    def _put_back(self, agent: Agent) -> None:
        if agent.halted:
            self._book.cancel(agent, agent.halt_reason)
            return
        agent.asked_attempt = 0
        self._book.put(agent)
        self._book.queue.leave(agent.id)
        self._book.queue.join(agent.id, agent.spec.priority, agent.turn, agent.owner)
