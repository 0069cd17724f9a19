"""A git worktree and a branch for each agent of descartesd."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from msgspec import structs

from descartesd.api import (
    Action,
    AgentSpec,
    DescartesError,
    Event,
    Identity,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    hookimpl,
)
from descartesd_worktree import settings
from descartesd_worktree.actions import Actions
from descartesd_worktree.book import Record
from descartesd_worktree.git import Until
from descartesd_worktree.worktrees import Wanted, Worktrees

log = logging.getLogger("descartesd.plugins.worktree")

_AT_ONCE = 4
# An agent a worktree was made for is there long before, unless it was refused.
_UNCLAIMED_S = 60.0


class Plugin:
    """What the entry point `worktree` names."""

    Config = settings.Config

    def __init__(self, config: settings.Config) -> None:
        self._config = config
        self._worktrees = Worktrees(config)
        self._actions = Actions(self._worktrees)
        # Its own threads: git may take its time, and the server's are for the server.
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="worktree")

    @hookimpl
    def register_actions(self) -> Iterable[Action]:
        """Add the actions."""
        return self._actions.all()

    @hookimpl
    def daemon_started(self) -> None:
        """Finish what was begun before."""
        self._later(self._tidy)

    @hookimpl
    def daemon_stopping(self) -> None:
        """Begin nothing more; the rest is done at the next start."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @hookimpl
    async def agent_spawning(self, spec: AgentSpec, identity: Identity) -> AgentSpec | None:
        """Start an agent that has the label in a worktree of its own, or not at all.

        As a coroutine function it is the first to notice that its time is over: the server would
        start the agent all the same, and where the agent must not be.
        """
        label = self._config.label
        if label not in spec.labels:
            return None
        if spec.cwd is not None:
            raise InvalidArgumentError(
                f"cwd: an agent with the label '{label}' runs in a worktree of its own",
                hint="leave out one of the two",
            )
        name = spec.name or f"agent-{secrets.token_hex(4)}"
        wanted = Wanted(
            repo=spec.labels[label],
            owner=identity.id,
            branch=spec.labels.get(f"{label}.branch"),
            base=spec.labels.get(f"{label}.base"),
            agent_name=name,
        )
        record = await self._made(wanted)
        return structs.replace(spec, name=name, cwd=record.path)

    async def _made(self, wanted: Wanted) -> Record:
        until = Until(time.monotonic() + self._config.spawn_s)
        create = partial(self._worktrees.create, wanted, until)
        try:
            async with asyncio.timeout(self._config.spawn_s):
                record = await asyncio.get_running_loop().run_in_executor(self._pool, create)
        except TimeoutError as exc:
            raise UnavailableError(
                f"the worktree was not made within {self._config.spawn_s:g} s",
                hint="give it more time: plugins.worktree.spawn_s and plugins.hook_timeout_s; or "
                "make it first: descartesctl action run worktree.create",
            ) from exc
        except OSError as exc:
            raise UnavailableError(
                f"the worktree cannot be made: {exc.strerror or exc}",
                hint="look at the directory plugins.worktree.directory names",
            ) from exc
        log.info("worktree.made", extra={"worktree": record.name, "agent": wanted.agent_name})
        self._later(self._tidy)
        return record

    @hookimpl
    def agent_event(self, event: Event) -> None:
        """Learn which agent a worktree is of, and let it go with the agent."""
        is_new = event.kind == "status_changed" and event.previous is None
        if event.agent_id is None or not (is_new or event.kind == "removed"):
            return
        try:
            if is_new:
                self._claim(event)
            elif self._config.when_removed == "remove":
                self._release(event.agent_id)
        except (DescartesError, OSError) as exc:
            # Were these counted as its failures, the server would ask the plugin no more, and
            # start agents in places that are not theirs.
            log.error("worktree.unusable", extra={"cause": str(exc)})  # noqa: TRY400  # it says all

    def _release(self, agent: str) -> None:
        for record in self._worktrees.book.all():
            if record.agent == agent:
                self._worktrees.book.change(record.name, is_let_go=True)
                self._later(self._let_go, record.name)

    def _later(self, work: Callable[..., None], *words: str) -> None:
        # A server that stops takes nothing more, and begins with it at its next start.
        with contextlib.suppress(RuntimeError):
            self._pool.submit(work, *words)

    def _claim(self, event: Event) -> None:
        for record in reversed(self._worktrees.book.all()):
            is_meant = record.agent_name == event.name and record.owner == event.owner
            if is_meant and record.agent is None and self._is_new(record):
                self._worktrees.book.change(record.name, agent=event.agent_id)
                return

    def _is_new(self, record: Record) -> bool:
        return time.time() - record.created_at < _UNCLAIMED_S

    def _tidy(self) -> None:
        """Remove what is to go, and what was made for agents that were refused then."""
        try:
            records = self._worktrees.book.all()
        except DescartesError as exc:
            log.error("worktree.unusable", extra={"cause": exc.message})  # noqa: TRY400  # it says all
            return
        for record in records:
            is_unclaimed = record.agent_name is not None and record.agent is None
            if record.is_let_go or (is_unclaimed and not self._is_new(record)):
                self._let_go(record.name)

    def _let_go(self, name: str) -> None:
        """Remove a worktree if nothing is lost with it; else it is kept until somebody does."""
        try:
            self._worktrees.remove(name, Until(time.monotonic() + self._config.git_s))
        except NotFoundError:
            # Somebody else was faster; or its repository is not there now.
            return
        except (DescartesError, OSError) as exc:
            log.warning("worktree.kept", extra={"worktree": name, "cause": str(exc)})
            self._worktrees.book.change(name, is_let_go=False, agent_name=None)
        else:
            log.info("worktree.removed", extra={"worktree": name})


__all__ = ["Plugin"]
