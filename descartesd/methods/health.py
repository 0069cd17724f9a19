"""Tells whether every part works."""

from __future__ import annotations

import time

from descartesd.agents.fleet import Fleet
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.registry import Registry
from descartesd.methods.policy import Policy
from descartesd.wire.server import KeeperHealth, ServerHealth


class Health:
    """Gathers what the parts know of themselves; nothing is computed that could block."""

    def __init__(
        self,
        *,
        server_id: str,
        version: str,
        fleet: Fleet,
        keeper: KeeperLink,
        registry: Registry,
        policy: Policy,
    ) -> None:
        self._server_id = server_id
        self._version = version
        self._fleet = fleet
        self._keeper = keeper
        self._registry = registry
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
            agents=self._fleet.roster.counts(),
        )

    def _reasons(self) -> list[str]:
        reasons = []
        if not self._keeper.connected:
            reasons.append(f"the keeper is not connected: {self.keeper_problem or 'starting'}")
        if self._fleet.unknown:
            count = len(self._fleet.unknown)
            reasons.append(f"the keeper runs {count} agents this server has no record of")
        if self._registry.problem is not None:
            reasons.append(f"the registry cannot be written: {self._registry.problem}")
        if self._policy.problem is not None:
            reasons.append(self._policy.problem)
        return reasons
