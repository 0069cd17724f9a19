"""Asks the keeper what agents use, and whose output waits there, a few of them at a time."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import STARTED
from descartesd.agents.record import Agent
from descartesd.errors import DescartesError
from descartesd.wire.agent import Usage

log = logging.getLogger(__name__)

# What the keeper can look at in about two milliseconds.
AT_ONCE = 20


class Use:
    """Keeps what agents use in their records: of up to AT_ONCE every tick, of more in turns."""

    def __init__(self, book: Book, keeper: KeeperLink) -> None:
        self._book = book
        self._keeper = keeper
        self._asked: asyncio.Future[dict[str, Any]] | None = None
        # The last one asked about; the next turn goes on after it.
        self._last = ""

    def tick(self) -> None:
        """Ask about the next few, unless the keeper still owes an answer."""
        if self._asked is not None or not self._keeper.has("usage"):
            return
        running = [agent.id for agent in self._book.roster if _is_watched(agent)]
        following = [agent_id for agent_id in running if agent_id > self._last]
        turn = following[:AT_ONCE] or running[:AT_ONCE]
        if not turn:
            return
        self._last = turn[-1]
        self._asked = self._keeper.request("usage", agent_ids=turn)
        self._asked.add_done_callback(partial(self._take, turn))

    def _take(self, turn: list[str], asked: asyncio.Future[dict[str, Any]]) -> None:
        self._asked = None
        if asked.cancelled():
            return
        error = asked.exception()
        if isinstance(error, DescartesError):
            log.debug("keeper.usage_unknown", extra={"cause": error.message})
            return
        for agent_id, (memory_bytes, cpu_seconds, tasks) in asked.result()["usage"].items():
            agent = self._book.roster.get(agent_id)
            usage = Usage(memory_bytes=memory_bytes, cpu_seconds=cpu_seconds, tasks=tasks)
            if agent is not None and agent.state in STARTED and agent.usage != usage:
                agent.usage = usage
                self._book.views.changed(agent)
        errors = asked.result().get("output_errors", {})
        for agent_id in turn:
            self._note_output(agent_id, errors.get(agent_id))

    def _note_output(self, agent_id: str, error: str | None) -> None:
        agent = self._book.roster.get(agent_id)
        if agent is None or agent.output_error == error:
            return
        if agent.output_error is None:
            log.warning("agent.output_waits", extra={"agent": agent_id, "cause": error})
        agent.output_error = error
        self._book.views.changed(agent)


def _is_watched(agent: Agent) -> bool:
    """Whether it uses anything, or its output may not be written yet."""
    return agent.state in STARTED or (agent.is_over and not agent.eof)
