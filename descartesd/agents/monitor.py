"""Follows what agents say of themselves while they run, and sees to their budgets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from descartesd.agents.book import Book
from descartesd.agents.dialects.report import Budget, Question, Report
from descartesd.agents.ear import Apply, Ear, Ending, News
from descartesd.agents.follow import Watches
from descartesd.agents.hearing import take
from descartesd.agents.lifecycle import ALIVE
from descartesd.agents.record import Agent
from descartesd.errors import DescartesError
from descartesd.keeper.protocol import Status
from descartesd.wire.event import EventKind

log = logging.getLogger(__name__)

# What one agent may take of a turn of the event loop.
_READ_BYTES = 65_536
_LINES = 512
# Between two rounds; shorter while somebody has written more than a turn takes.
_REST_S = 0.05
_BACKLOG_REST_S = 0.005
# So far apart one agent's changes are told and recorded, and further where the record is large: an
# agent has no more than so many bytes of questions written in a second.
_QUIET_S = 0.5
_WRITTEN_BYTES_S = 1 << 20
# Without a watch, and after a read that failed.
_LOOK_AGAIN_S = 1.0
# An end is known without all that was said before it, at the latest: while the disk is full the
# keeper holds some of it back, and a flood may take too long to be read.
_PATIENCE_S = 10.0
# Where only its sums are still open, somebody may wait for the agent to be gone.
_SUMS_PATIENCE_S = 1.0


class Monitor:
    """Listens to every agent that has a dialect; costs nothing for the others.

    One task and one inotify descriptor for all. How far an agent is heard and what it has said
    stand in one record, so that after a crash the next daemon goes on exactly there.
    """

    def __init__(
        self, book: Book, watches: Watches, pause: Callable[[Agent], Awaitable[None]]
    ) -> None:
        """`pause` is how an agent is paused whose budget is spent."""
        self._book = book
        self._watches = watches
        self._pause = pause
        self._ears: dict[str, Ear] = {}
        self._ready: dict[str, Ear] = {}
        # When an agent is to be looked at though it has written nothing.
        self._due: dict[str, float] = {}
        self._to_pause: list[Agent] = []
        self._stirred = asyncio.Event()
        book.on_change.append(self.note)

    def questions(self, agent_id: str) -> list[Question]:
        """What the agent waits for answers to, oldest first."""
        ear = self._ears.get(agent_id)
        return [] if ear is None else list(ear.report.questions)

    def answered(self, agent_id: str, question_id: str) -> None:
        """Note that a question has been answered: the agent itself may not say so."""
        ear = self._ears.get(agent_id)
        if ear is not None:
            ear.report.answered(question_id)
            self._book.views.changed(ear.agent)
            self._stir(ear)

    def line(self, agent: Agent, is_wanted: Callable[[bytes], bool]) -> asyncio.Future[None]:
        """A future that is done with the next line of stdout that is wanted.

        It is cancelled when the agent's attempt ends before; an agent nobody listens to has none.
        """
        found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ear = self._ear(agent)
        if ear is None:
            found.cancel()
        else:
            # Those given up: a silent agent would keep them for ever.
            ear.awaited = [each for each in ear.awaited if not each[1].done()]
            ear.awaited.append((is_wanted, found))
        return found

    def note(self, agent: Agent) -> None:
        """Listen to an agent that begins to run, and no longer to one whose output has ended."""
        if agent.eof:
            self._leave(agent)
        elif agent.state in ALIVE:
            self._ear(agent)

    def hear_out(self, agent: Agent, status: Status, apply: Apply) -> None:
        """Call `apply`, which notes an end, once what was said before it is in the report.

        At once where nothing of it can matter, else within 10 s. A call for the same end that
        comes later replaces an earlier one.
        """
        ear = self._ear(agent)
        is_clean = status["exit_code"] == 0 and status["ended_by"] is None
        if ear is None or not (status["eof"] or is_clean):
            apply()
            return
        end = status["totals"]["stdout"] if status["eof"] else None
        patience = _PATIENCE_S if is_clean else _SUMS_PATIENCE_S
        ear.ending = Ending(apply, end, time.monotonic() + patience)
        self._attend(ear)

    async def run(self) -> None:
        """Listen for ever."""
        for agent in self._book.roster:
            self.note(agent)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._until_stirred()
                await self._round()
                for agent in self._to_pause:
                    group.create_task(self._pause_spent(agent), name="pausing for a budget")
                self._to_pause.clear()
                await asyncio.sleep(_BACKLOG_REST_S if self._ready else _REST_S)

    async def _until_stirred(self) -> None:
        left = None
        if self._due:
            left = max(min(self._due.values()) - time.monotonic(), 0.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._stirred.wait()
        self._stirred.clear()

    async def _round(self) -> None:
        now = time.monotonic()
        for agent_id in [each for each, due in self._due.items() if due <= now]:
            del self._due[agent_id]
            self._ready[agent_id] = self._ears[agent_id]
        ready, self._ready = self._ready, {}
        for agent_id, ear in ready.items():
            if self._ears.get(agent_id) is ear:
                self._attend(ear)
            await asyncio.sleep(0)

    def _ear(self, agent: Agent) -> Ear | None:
        """Listen to an agent, from where its report ends."""
        ear = self._ears.get(agent.id)
        if ear is not None or agent.dialect is None or agent.eof:
            # Its output ends before a further attempt begins, and with it this.
            return ear
        report = agent.report = agent.report or Report()
        ear = self._ears[agent.id] = Ear(agent, report, self._stir)
        if report.attempt != agent.attempt:
            # A command nobody has said anything of may never say a word.
            report.next_attempt(
                agent.attempt, "unknown" if ear.dialect == "auto" else "initializing"
            )
            self._book.views.changed(agent)
        if report.is_to_pause:
            self._to_pause.append(agent)
        file = self._book.output.file_name(agent.id, "stdout")
        try:
            ear.watching.enter_context(self._watches.watching(file, ear))
        except OSError as exc:
            log.warning("agent.not_watched", extra={"agent": agent.id, "cause": exc.strerror})
        else:
            ear.is_watched = True
        self._stir(ear)
        return ear

    def _leave(self, agent: Agent) -> None:
        ear = self._ears.pop(agent.id, None)
        if ear is not None:
            self._ready.pop(agent.id, None)
            self._due.pop(agent.id, None)
            ear.watching.close()
            for _, found in ear.awaited:
                found.cancel()

    def _stir(self, ear: Ear) -> None:
        self._ready[ear.agent.id] = ear
        self._stirred.set()

    def _attend(self, ear: Ear) -> None:
        """One turn of one agent."""
        self._ready.pop(ear.agent.id, None)
        if not self._hear(ear):
            self._stir(ear)
        self._check_budgets(ear)
        self._tell(ear, at_once=False)
        if not ear.is_watched:
            self._look_again(ear, time.monotonic() + _LOOK_AGAIN_S)
        self._end(ear)

    def _look_again(self, ear: Ear, when: float) -> None:
        self._due[ear.agent.id] = min(when, self._due.get(ear.agent.id, when))

    def _hear(self, ear: Ear) -> bool:
        """Take in what one turn allows; False when there may be more."""
        before = ear.report.read, ear.report.ignored, ear.report.foreign
        left = self._take_lines(ear, _LINES)
        if left:
            data = self._read(ear)
            ear.lines = ear.splitter.feed(data)
            left = self._take_lines(ear, left)
            is_all = left > 0 and len(data) < _READ_BYTES
        else:
            is_all = False
        ear.note_place()
        if before != (ear.report.read, ear.report.ignored, ear.report.foreign):
            self._book.views.changed(ear.agent)
        return is_all

    def _take_lines(self, ear: Ear, most: int) -> int:
        """Take at most so many of the lines that were read; how many more could be taken."""
        own = (ear.agent.id, ear.agent.name)
        while most:
            line = next(ear.lines, None)
            if line is None:
                break
            most -= 1
            take(line, ear.report, ear.dialect, own)
            self._pass_on(ear, line)
        return most

    def _pass_on(self, ear: Ear, line: bytes) -> None:
        if not ear.awaited:
            return
        awaited, ear.awaited = ear.awaited, []
        for is_wanted, found in awaited:
            if found.done():
                continue
            if is_wanted(line):
                found.set_result(None)
            else:
                ear.awaited.append((is_wanted, found))

    def _read(self, ear: Ear) -> bytes:
        try:
            piece = self._book.output.read(
                ear.agent.id, "stdout", ear.splitter.position, _READ_BYTES
            )
        except OSError as exc:
            log.warning("agent.not_heard", extra={"agent": ear.agent.id, "cause": exc.strerror})
            self._look_again(ear, time.monotonic() + _LOOK_AGAIN_S)
            return b""
        if piece.data and piece.offset > ear.splitter.position:
            # Retention was faster.
            ear.splitter.jump(piece.offset)
        return piece.data

    def _check_budgets(self, ear: Ear) -> None:
        limits, report = ear.agent.spec.limits, ear.report
        budgets: tuple[tuple[Budget, float | None, float | None], ...] = (
            ("tokens", limits.tokens, report.tokens),
            ("cost_usd", limits.cost_usd, report.cost_usd),
        )
        for which, limit, spent in budgets:
            if limit is None or spent is None or spent < limit or which in report.spent:
                continue
            report.spent.append(which)
            self._journal(
                ear, "budget_spent", data={"which": which, "limit": limit, "spent": spent}
            )
            if not report.is_to_pause:
                report.is_to_pause = True
                self._to_pause.append(ear.agent)
                self._stirred.set()
            self._book.put(ear.agent)

    async def _pause_spent(self, agent: Agent) -> None:
        await self._book.holds(agent, lambda: agent.state != "starting")
        try:
            if agent.state == "running":
                await self._pause(agent)
        except DescartesError as exc:
            log.warning("agent.not_paused", extra={"agent": agent.id, "cause": exc.message})
        if agent.report is not None and self._book.roster.get(agent.id) is agent:
            agent.report.is_to_pause = False
            self._book.put(agent)

    def _tell(self, ear: Ear, *, at_once: bool) -> None:
        """Record and tell what has changed, unless that was done a moment ago."""
        news = News.of(ear.report)
        if news == ear.told:
            return
        now = time.monotonic()
        if not at_once:
            if now < ear.quiet_until:
                self._look_again(ear, ear.quiet_until)
                return
            if self._book.registry.problem is not None:
                # On a full disk nothing may pile up that can be told as well later.
                self._look_again(ear, now + _LOOK_AGAIN_S)
                return
        ear.quiet_until = now + _QUIET_S + ear.report.asked_bytes / _WRITTEN_BYTES_S
        told, ear.told = ear.told, news
        self._tell_of(ear, told, news)
        self._book.put(ear.agent)
        self._book.registry.save_soon()

    def _tell_of(self, ear: Ear, told: News, news: News) -> None:
        # These hold for a moment only: they would drive what lasts out of the journal.
        if self._book.journal.is_followed:
            if news.activity != told.activity:
                self._journal(ear, "activity", data={"activity": news.activity})
            if news.progress != told.progress:
                self._journal(ear, "progress", data={"progress": news.progress})
        for question in ear.report.questions:
            if question.id not in told.questions:
                shown = question.shown()
                data = {"id": shown.id, "tool": shown.tool, "input": shown.input}
                self._journal(ear, "question", data=data)

    def _journal(self, ear: Ear, kind: EventKind, *, data: Mapping[str, object]) -> None:
        agent = ear.agent
        self._book.journal.record(
            kind,
            agent.id,
            owner=agent.owner,
            name=agent.name,
            state=agent.state,
            attempt=agent.attempt,
            data=data,
        )

    def _end(self, ear: Ear) -> None:
        """Have the end noted once all is heard, or patience is at its end."""
        if ear.ending is None:
            return
        apply, end, deadline = ear.ending
        is_late = time.monotonic() >= deadline
        is_heard = end is not None and ear.agent.id not in self._ready
        if not (is_late or (is_heard and ear.splitter.position >= (end or 0))):
            self._look_again(ear, deadline)
            return
        ear.ending = None
        if end is not None:
            self._close_report(ear, end)
        self._tell(ear, at_once=True)
        apply()

    def _close_report(self, ear: Ear, end: int) -> None:
        rest = ear.splitter.rest()
        if rest is not None:
            take(rest, ear.report, ear.dialect, (ear.agent.id, ear.agent.name))
        # What a next attempt writes begins here.
        ear.report.offset, ear.report.is_skipping = max(end, ear.splitter.position), False
        self._check_budgets(ear)
