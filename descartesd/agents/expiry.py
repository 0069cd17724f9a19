"""Removes agents that ended long ago, and their output with them."""

from __future__ import annotations

import itertools
import logging

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.lifecycle import ENDED
from descartesd.errors import ConflictError, DescartesError, NotFoundError

log = logging.getLogger(__name__)

# The rest are for the next time: everybody else's requests go on in between.
_AT_ONCE = 100


class Expiry:
    """Keeps an ended agent for `keep_s` seconds; with 0 until somebody removes it."""

    def __init__(self, book: Book, fleet: Fleet, keep_s: float) -> None:
        self._book = book
        self._fleet = fleet
        self.keep_s = keep_s

    async def tick(self) -> None:
        """Remove those that have been kept long enough, a hundred at most."""
        if not self.keep_s:
            return
        before = self._book.clock() - self.keep_s
        old = (
            agent
            for agent in self._book.roster
            if agent.state in ENDED and agent.ended_at is not None and agent.ended_at <= before
        )
        for agent in list(itertools.islice(old, _AT_ONCE)):
            try:
                await self._fleet.remove(agent)
            except (ConflictError, NotFoundError):
                # Started once more, or removed, meanwhile.
                continue
            except DescartesError as exc:
                log.debug("expiry.postponed", extra={"cause": exc.message})
                return
