"""Tells whether every part works."""

from __future__ import annotations

import time

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.keeper_link import KeeperLink
from descartesd.methods.policy import Policy
from descartesd.wire.server import KeeperHealth, ServerHealth


class Health:
    """Gathers what the parts know of themselves; nothing is computed that could block."""

    def __init__(
        self,
        *,
        server_id: str,
        version: str,
        book: Book,
        facts: Facts,
        keeper: KeeperLink,
        policy: Policy,
    ) -> None:
        self._server_id = server_id
        self._version = version
        self._book = book
        self._facts = facts
        self._keeper = keeper
        self._policy = policy
        self._started = time.monotonic()
        self.listeners: list[str] = []
        self.keeper_problem: str | None = None

    def report(self) -> ServerHealth:
        """Answer `server.health`."""
        reasons = self._reasons()
        return ServerHealth(
            status="degraded" if reasons else "ok",
            reasons=reasons,
            server_id=self._server_id,
            version=self._version,
            uptime_s=round(time.monotonic() - self._started, 3),
            isolation="none",
            keeper=KeeperHealth(
                connected=self._keeper.connected,
                pid=self._keeper.pid,
                version=self._keeper.version,
            ),
            listeners=self.listeners,
            agents=self._book.roster.counts(),
        )

    def _reasons(self) -> list[str]:
        reasons = []
        if not self._keeper.connected:
            reasons.append(f"the keeper is not connected: {self.keeper_problem or 'starting'}")
        if self._facts.unknown:
            count = len(self._facts.unknown)
            reasons.append(f"the keeper runs {count} agents this server has no record of")
        if self._book.registry.problem is not None:
            reasons.append(f"the registry cannot be written: {self._book.registry.problem}")
        if self._policy.problem is not None:
            reasons.append(self._policy.problem)
        return reasons
