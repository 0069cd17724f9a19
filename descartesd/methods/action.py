"""The methods about custom actions: what plugins let clients do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from descartesd.agents.book import Book
from descartesd.api import Action, ActionContext
from descartesd.api.action import Progress, nobody_watches
from descartesd.errors import (
    DeadlineExceededError,
    DescartesError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from descartesd.hooks.relay import Registered
from descartesd.hooks.threads import Threads
from descartesd.hooks.within import CAUGHT, TooLateError, within
from descartesd.methods.call import Call, Handler
from descartesd.methods.grants import RANKS
from descartesd.methods.news import News
from descartesd.methods.outcomes import incident, settled
from descartesd.methods.params import inner
from descartesd.methods.policy import Caller
from descartesd.methods.sight import find
from descartesd.wire import codec
from descartesd.wire.action import ActionInfo, ActionResult, ActionRun, ActionTable
from descartesd.wire.server import Empty


class _Job(NamedTuple):
    """An action that may be run as it was asked for."""

    plugin: str
    action: Action
    context: ActionContext
    params: Struct | dict[str, Any]
    agent_id: str | None


class ActionMethods:
    """One function per method; at most `at_once` actions run."""

    def __init__(
        self,
        book: Book,
        actions: Mapping[str, Registered],
        *,
        at_once: int = 32,
        max_message_bytes: int = 1 << 20,
    ) -> None:
        self._book = book
        self._actions = actions
        self._at_once = at_once
        self._max_message_bytes = max_message_bytes
        self._threads = Threads(at_once)
        # Coroutines that have not ended.
        self._awaited = 0
        self._table = ActionTable(actions=[_describe(actions[name]) for name in sorted(actions)])

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"action.list": self.list, "action.run": self.run, "action.follow": self.follow}

    def list(self, _call: Call, _params: Empty) -> ActionTable:
        return self._table

    async def run(self, call: Call, params: ActionRun) -> ActionResult:
        return await self._done(self._prepared(call, params, "action.run", nobody_watches))

    async def follow(self, call: Call, params: ActionRun) -> None:
        stream = call.stream
        if stream is None:
            raise InternalError("action.follow was called without a stream")
        news = News()
        job = self._prepared(call, params, "action.follow", news.progress)
        stream.open()
        async with asyncio.TaskGroup() as group:
            group.create_task(news.tell(stream))
            outcome = await settled(self._done(job), "action.follow")
            news.end()
        if isinstance(outcome, DescartesError):
            raise outcome
        last = Raw(codec.encode(_Last(result=outcome)))
        size = len(memoryview(last))
        if size > self._max_message_bytes:
            raise ResourceExhaustedError(
                f"the result has {size} bytes, more than network.max_message_size"
                f" ({self._max_message_bytes})",
                retryable=False,
            )
        await stream.push(last, size)

    def _prepared(self, call: Call, params: ActionRun, method: str, progress: Progress) -> _Job:
        plugin, action = self._find(params.name)
        _check_granted(call.caller, action, method)
        if action.needs_agent and params.agent is None:
            raise InvalidArgumentError(
                f"agent: action '{action.name}' is run on an agent, and none is named",
                hint=f"name one: descartesctl action run {action.name} --agent ID",
            )
        agent = None
        if params.agent is not None:
            agent = find(self._book.roster, call.caller, params.agent, method)
        given = _typed(action, params.params)
        context = ActionContext(
            caller=call.caller.id,
            role=call.caller.role,
            agent=None if agent is None else self._book.views.info(agent),
            log=logging.getLogger(f"descartesd.plugins.{plugin}"),
            progress=progress,
        )
        return _Job(plugin, action, context, given, None if agent is None else agent.id)

    async def _done(self, job: _Job) -> ActionResult:
        if self._awaited + self._threads.running >= self._at_once:
            raise ResourceExhaustedError(
                f"{self._at_once} actions run now (plugins.actions_at_once), and one more cannot",
                hint="those whose time is over still count until they end",
            )
        result = await self._within_time(job)
        return ActionResult(
            action=job.action.name,
            result=_encoded(job.plugin, job.action, result),
            agent_id=job.agent_id,
        )

    async def _within_time(self, job: _Job) -> Any:
        action = job.action
        call = partial(action.run, job.context, job.params)
        try:
            if inspect.iscoroutinefunction(action.run):
                self._awaited += 1
                return await within(call(), action.timeout_s, self._ended)
            work = self._threads.start(f"action {action.name}", call)
            return await within(work, action.timeout_s)
        except DescartesError:
            raise
        except TooLateError as exc:
            job.context.cancelled.set()
            raise DeadlineExceededError(
                f"action '{action.name}' was not done within {action.timeout_s:g} s, its time",
                hint=f"look at what it left; it is of plugin '{job.plugin}'",
            ) from exc
        except CAUGHT as exc:
            raise incident(exc, f"action {action.name} of plugin {job.plugin}") from exc
        except asyncio.CancelledError:
            job.context.cancelled.set()
            raise

    def _ended(self) -> None:
        self._awaited -= 1

    def _find(self, name: str) -> Registered:
        found = self._actions.get(name)
        if found is None:
            near = codec.nearest(name, self._actions)
            raise NotFoundError(
                f"this server has no action '{name}'",
                hint=f"did you mean '{near}'" if near else "see them: descartesctl action list",
            )
        return found


class _Last(Struct, frozen=True, kw_only=True):
    """The ActionItem that ends a stream."""

    result: Struct


def _check_granted(caller: Caller, action: Action, method: str) -> None:
    """A built-in role runs what its rank allows, any other what it lists."""
    if caller.grants.rank >= RANKS[action.permission]:
        return
    for role in caller.grants.granting(method):
        if any(fnmatchcase(action.name, pattern) for pattern in role.definition.actions):
            return
    raise PermissionDeniedError(
        f"action '{action.name}' needs the role {action.permission}; {caller.id} is {caller.role}",
        hint="ask an administrator for a certificate with that role, or for one that lists it",
    )


def _typed(action: Action, params: dict[str, Any]) -> Struct | dict[str, Any]:
    return inner(action.params, params) if issubclass(action.params, Struct) else params


def _describe(registered: Registered) -> ActionInfo:
    plugin, action = registered
    return ActionInfo(
        name=action.name,
        summary=action.summary,
        permission=action.permission,
        needs_agent=action.needs_agent,
        timeout_s=action.timeout_s,
        params=msgspec.json.schema(action.params),
        plugin=plugin,
    )


def _encoded(plugin: str, action: Action, result: Any) -> Raw:
    try:
        return Raw(codec.encode(result))
    except (msgspec.MsgspecError, *codec.MALFORMED) as exc:
        raise InternalError(
            f"action '{action.name}' of plugin '{plugin}' answered what cannot be sent: {exc}",
            hint="report it to the makers of the plugin",
        ) from exc
