"""Tells whether every part works: looked at once a second, answered from memory."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.keeper_upgrade import KeeperUpgrade
from descartesd.hooks.relay import Relay
from descartesd.methods.policy import Policy
from descartesd.observe.audit import AuditLog
from descartesd.transport.listeners import Listener
from descartesd.wire.server import KeeperHealth, ServerHealth, Stray

log = logging.getLogger(__name__)

OK = "ok"
_SILENCE_S = 10.0
_LAG_S = 1.0
_FREE_BYTES = 16 << 20
_STRAYS_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What health looks at; `directories` are those the server writes into."""

    book: Book
    facts: Facts
    fleet: Fleet
    keeper: KeeperLink
    upgrade: KeeperUpgrade
    policy: Policy
    audit: AuditLog
    directories: list[str]
    listeners: list[Listener]
    plugins: Relay


class Health:
    """Gathers what the parts know of themselves; nothing is computed that could block."""

    def __init__(self, parts: Parts, *, server_id: str, version: str) -> None:
        self.parts = parts
        self._server_id = server_id
        self._version = version
        self._started = time.monotonic()
        self.lag_s = 0.0
        self._problems: Mapping[str, str | None] = {}
        self._told: list[str] = []
        self.strays: list[Stray] = []
        self._strays_asked: asyncio.Future[dict[str, Any]] | None = None
        self._strays_due = self._started
        self.endpoints = [listener.endpoint for listener in parts.listeners]
        # Why there is no keeper.
        self.keeper_problem: str | None = None
        self._answered_at = self._started
        # Whether a key nobody knows has been turned away.
        self.refuses_strangers = False

    def keeper_answered(self) -> None:
        """There is a keeper, and it answers."""
        self.keeper_problem = None
        self._answered_at = time.monotonic()

    def look(self, lag_s: float) -> None:
        """Look at what has to be asked for; the loop has come `lag_s` seconds late to it."""
        self.lag_s = lag_s
        unwritable = _first(_unwritable, self.parts.directories)
        self._problems = {
            "listeners": _listening_problem(self.parts.listeners),
            "directories": unwritable or _first(_no_room, self.parts.directories),
        }
        # Open files may take more for a while; what is begun then could not be ended in order.
        self.parts.book.registry.barred = unwritable
        self._ask_strays()
        self._tell()

    def _ask_strays(self) -> None:
        """Have the keeper look, without waiting for its answer."""
        if self._strays_asked is not None or time.monotonic() < self._strays_due:
            return
        self._strays_due = time.monotonic() + _STRAYS_EVERY_S
        self._strays_asked = self.parts.keeper.request("strays")
        self._strays_asked.add_done_callback(self._take_strays)

    def _take_strays(self, asked: asyncio.Future[dict[str, Any]]) -> None:
        self._strays_asked = None
        told = () if asked.cancelled() or asked.exception() else asked.result()["strays"]
        self.strays = [Stray(pid=each["pid"], command=each["command"]) for each in told]

    def _tell(self) -> None:
        """Record that the status has changed."""
        reasons = _reasons(self.checks())
        if bool(self._told) != bool(reasons):
            status = "degraded" if reasons else "ok"
            log.warning("health.changed", extra={"status": status, "reasons": reasons})
            self.parts.book.journal.record(
                "health_changed", data={"status": status, "reasons": reasons}
            )
        self._told = reasons

    def report(self) -> ServerHealth:
        """Answer `server.health`."""
        keeper = self.parts.keeper
        checks = self.checks()
        reasons = _reasons(checks)
        return ServerHealth(
            status="degraded" if reasons else "ok",
            reasons=reasons,
            server_id=self._server_id,
            version=self._version,
            uptime_s=round(time.monotonic() - self._started, 3),
            # Agents of a keeper that is away are whose they were.
            isolation="user"
            if self.parts.fleet.starts.is_apart and (keeper.has("users") or not keeper.connected)
            else "none",
            keeper=KeeperHealth(
                connected=keeper.connected,
                pid=keeper.pid,
                version=keeper.version,
                build=keeper.build,
                installed_version=self.parts.upgrade.installed_version,
                installed_build=self.parts.upgrade.installed_build,
                stays_because=self.parts.upgrade.stays_because,
                control_groups=keeper.has("cgroup"),
                strays=self.strays,
            ),
            listeners=self.endpoints,
            agents=self.parts.book.roster.counts(),
            draining=self.parts.fleet.starts.closed is not None,
            checks=checks,
            certificates_expiring=self.parts.policy.certificates_expiring,
        )

    def checks(self) -> dict[str, str]:
        """For each part `ok`, or what is wrong with it."""
        unwritten = self.parts.book.registry.problem
        found = {
            "registry": f"the registry cannot be written: {unwritten}"
            if unwritten
            else self.parts.book.registry.begun_anew,
            "audit": self.parts.audit.trouble,
            "trust_store": self.parts.policy.problem,
            "revocations": self.parts.policy.revocations_problem,
            "clock": self.parts.policy.clock_problem,
            "keeper": self._keeper_problem(),
            "plugins": self.parts.plugins.problem,
            "event_loop": f"the event loop came {self.lag_s:.1f} s late"
            if self.lag_s > _LAG_S
            else None,
            **self._problems,
        }
        if self.refuses_strangers:
            # Tested once, before the server is ready; one that fails does not start.
            found["handshake"] = None
        return {part: problem or OK for part, problem in found.items()}

    def _keeper_problem(self) -> str | None:
        if not self.parts.keeper.connected:
            return f"the keeper is not connected: {self.keeper_problem or 'starting'}"
        silent_s = time.monotonic() - self._answered_at
        if silent_s > _SILENCE_S:
            return f"the keeper has not answered for {silent_s:.0f} s"
        if self.parts.facts.unknown:
            count = len(self.parts.facts.unknown)
            return f"the keeper runs {count} agents this server has no record of"
        return None


def _reasons(checks: dict[str, str]) -> list[str]:
    return [found for found in checks.values() if found != OK]


def _first(find: Callable[[str], str | None], directories: list[str]) -> str | None:
    return next(filter(None, map(find, directories)), None)


def _unwritable(directory: str) -> str | None:
    try:
        found = os.statvfs(directory)
    except OSError as exc:
        return f"'{directory}': {exc.strerror}"
    if found.f_flag & os.ST_RDONLY or not os.access(directory, os.W_OK):
        return f"'{directory}' cannot be written"
    return None


def _no_room(directory: str) -> str | None:
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < _FREE_BYTES:
        return f"'{directory}' has {free >> 20} MiB of room, expected {_FREE_BYTES >> 20} at least"
    return None


def _listening_problem(listeners: list[Listener]) -> str | None:
    lost = [listener.endpoint for listener in listeners if not listener.is_listening()]
    return f"nobody can connect to {', '.join(lost)}" if lost else None
