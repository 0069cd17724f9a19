"""One agent that is listened to: how far it is heard, and what of it has been told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from descartesd.agents.dialects import DIALECTS
from descartesd.agents.dialects.report import Report
from descartesd.agents.hearing import Splitter
from descartesd.agents.record import Agent

Apply = Callable[[], None]


class Ending(NamedTuple):
    """An end that is noted by `apply`, once stdout is heard up to `end`, where that is known."""

    apply: Apply
    end: int | None
    deadline: float


class Ear:
    """One agent that is listened to; a waker, for its file's watch."""

    def __init__(self, agent: Agent, report: Report, stir: Callable[[Ear], None]) -> None:
        self.agent = agent
        self.report = report
        # A backend may have gone from the configuration, and its dialect with it.
        self.dialect = agent.dialect if agent.dialect and agent.dialect in DIALECTS else "auto"
        self.splitter = Splitter(report.offset, is_skipping=report.is_skipping)
        self.lines: Iterator[bytes] = iter(())
        self.watching = contextlib.ExitStack()
        self.is_watched = False
        self.ending: Ending | None = None
        self.told = News.of(report)
        self.quiet_until = 0.0
        self.awaited: list[tuple[Callable[[bytes], bool], asyncio.Future[None]]] = []
        self._stir = stir

    def set(self) -> None:
        self._stir(self)

    def note_place(self) -> None:
        """Have the report say how far it goes."""
        splitter, report = self.splitter, self.report
        report.offset, report.is_skipping = splitter.offset, splitter.is_skipping
        report.too_long += splitter.too_long
        splitter.too_long = 0


class News(NamedTuple):
    """What is worth a record when it changes."""

    activity: str
    progress: float | None
    questions: tuple[str, ...]
    sums: tuple[object, ...]

    @classmethod
    def of(cls, report: Report) -> News:
        return cls(
            report.activity,
            report.progress,
            tuple(question.id for question in report.questions),
            (report.session_id, report.tokens, report.cost_usd, report.verdict),
        )
