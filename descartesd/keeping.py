"""Part of the composition root: finds the keeper, agrees with it on every agent, minds it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.keeper_guard import KeeperGuard, KeeperPaths
from descartesd.agents.keeper_link import KeeperLink, boot_id
from descartesd.agents.keeper_upgrade import KeeperUpgrade
from descartesd.agents.recovery import reconcile
from descartesd.config.schema import Server
from descartesd.errors import DescartesError, UnavailableError
from descartesd.methods import cut_short
from descartesd.methods.health import Health
from descartesd.methods.idempotency import Answers
from descartesd.observe.audit import AuditLog
from descartesd.places import allow_descriptors
from descartesd.systemd.extending import extending
from descartesd.systemd.service import Service
from descartesd.wire.agent import Reason

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_ASKED_EVERY_S = 5.0
_PATIENCE_S = 10.0
_STOP_MARGIN_S = 10.0
_START_PATIENCE_S = 60.0
_START_LONGEST_S = 300.0


def keeper_paths(server: Server) -> KeeperPaths:
    """Where the keeper of this server is, and whether it is its own."""
    return KeeperPaths(
        socket=server.keeper_socket or os.path.join(server.run_dir, "keeper.sock"),
        output_dir=server.output_dir,
        log=os.path.join(server.state_dir, "keeper.log"),
        open_files=allow_descriptors(),
        is_own=not server.keeper_socket,
    )


@dataclass(frozen=True, slots=True)
class Agreeing:
    """Those that have to agree with the keeper; `most` is the largest answer, in bytes."""

    book: Book
    facts: Facts
    fleet: Fleet
    answers: Answers
    audit: AuditLog
    most: int


class Keeping:
    """The server's relation to its keeper, from the start to the end."""

    def __init__(self, server: Server) -> None:
        self._lost = asyncio.Event()
        self.link = KeeperLink(on_lost=self._lost.set)
        self._guard = KeeperGuard(self.link, keeper_paths(server))
        self.upgrade = KeeperUpgrade(self.link, is_allowed=server.keeper_upgrade == "reexec")
        self._ending: asyncio.Timeout | None = None
        self.is_own = not server.keeper_socket
        self._output_dir = server.output_dir

    def agree_with(self, parts: Agreeing, health: Health) -> None:
        """Whom to bring into agreement with it, and whom to tell how it is."""
        self._parts = parts
        self._health = health
        self._open_intents = parts.book.registry.open_intents()
        self.upgrade.record = partial(_record, parts.book)

    async def begin(self, service: Service) -> None:
        """Bring a keeper up as part of a start, which systemd is to wait for."""
        service.begins("agreeing with the keeper")
        journal = self._parts.book.journal
        async with extending(
            service.notifier,
            lambda: (self.link.connected, journal.last),
            patience_s=_START_PATIENCE_S,
            longest_s=_START_LONGEST_S,
        ):
            await self.bring_up()

    async def mind(self) -> None:
        """Bring a keeper back whenever there is none, or none that answers."""
        while True:
            if not self.link.connected:
                await asyncio.sleep(_RETRY_S)
            elif await self._is_well():
                continue
            await self.bring_up()

    async def _is_well(self) -> bool:
        """Wait until the keeper is lost, or until it is time to ask whether it answers."""
        try:
            async with asyncio.timeout(_ASKED_EVERY_S):
                await self._lost.wait()
            # The loss may have been that of one before, while this one was brought up.
            self._lost.clear()
            return self.link.connected
        except TimeoutError:
            if await self.link.answers(_PATIENCE_S):
                self._health.keeper_answered()
                return True
            self._do_without("the keeper does not answer")
        return False

    async def bring_up(self) -> None:
        """Connect to a keeper and agree with it on every agent; without one, serve reads."""
        book, facts = self._parts.book, self._parts.facts
        self._lost.clear()
        try:
            if self.is_own:
                self._make_output_dir()
            await self._guard.ensure()
            same_boot = book.registry.meta("boot_id") in (None, boot_id())
            reason: Reason = "keeper_lost" if same_boot else "host_lost"
            unknown = await reconcile(book, facts, self.link, reason)
        except DescartesError as exc:
            self._do_without(exc.message)
            return
        except Exception as exc:  # the boundary: without a keeper reads are served all the same
            problem = f"{type(exc).__name__}: {exc}"
            if problem != self._health.keeper_problem:
                log.exception("keeper.cannot_be_used")
            self._do_without(problem)
            return
        self._health.keeper_answered()
        facts.unknown = set(unknown)
        book.registry.set_meta("boot_id", boot_id())
        book.registry.save()
        self._close_open_intents()
        self._parts.fleet.turns.keeper_is_ready()
        self.upgrade.keeper_is_ready()

    def _make_output_dir(self) -> None:
        try:
            os.makedirs(self._output_dir, mode=0o750, exist_ok=True)
        except OSError as exc:
            raise UnavailableError(
                f"the keeper has no place for output: '{self._output_dir}': {exc.strerror}"
            ) from exc

    def _do_without(self, problem: str) -> None:
        if problem != self._health.keeper_problem:
            log.error("keeper.unavailable", extra={"cause": problem})
        self._health.keeper_problem = problem
        self.link.close()

    def _close_open_intents(self) -> None:
        """Answer what an earlier life of this daemon left open, so that it never runs again."""
        intents, self._open_intents = self._open_intents, []
        parts = self._parts
        for intent in intents:
            answered = cut_short.outcome(intent, parts.book, parts.most)
            parts.answers.close(intent, answered)
            parts.audit.add(cut_short.line(intent, answered))

    def hurry(self) -> None:
        """Told again to stop: no agent has its grace time any more."""
        if self._ending is not None:
            self._parts.fleet.kill_all()
            self._ending.reschedule(asyncio.get_running_loop().time() + _STOP_MARGIN_S)

    async def end(self) -> None:
        """End every agent in order, then the keeper: a stop of the foreground means stop.

        A keeper that is a service of its own goes on: systemd ends it where that is meant.
        """
        if not self.link.connected or not self.is_own:
            return
        fleet = self._parts.fleet
        fleet.starts.closed = "the server is stopping"
        fleet.end_waiting()
        self.link.leaving = True
        patience = _STOP_MARGIN_S + self._parts.book.roster.longest_grace_s()
        with contextlib.suppress(TimeoutError, DescartesError):
            async with asyncio.timeout(patience) as self._ending:
                await self.link.request("shutdown")
        self._ending = None
        await self._guard.gone(_STOP_MARGIN_S)


def _record(book: Book, upgraded: dict[str, Any]) -> None:
    book.journal.record("keeper_upgraded", data=upgraded)
