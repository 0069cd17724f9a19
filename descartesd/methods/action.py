"""The methods about custom actions: what plugins let clients do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct

from descartesd.agents.book import Book
from descartesd.api import Action, ActionContext
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
from descartesd.hooks.threads import NoThreadLeftError, Threads
from descartesd.methods.call import Call, Handler
from descartesd.methods.grants import RANKS
from descartesd.methods.outcomes import incident
from descartesd.methods.params import inner
from descartesd.methods.policy import Caller
from descartesd.methods.sight import find
from descartesd.wire import codec
from descartesd.wire.action import ActionInfo, ActionResult, ActionRun, ActionTable
from descartesd.wire.server import Empty

_MOST_THREADS = 32


class ActionMethods:
    """One function per method."""

    def __init__(self, book: Book, actions: Mapping[str, Registered]) -> None:
        self._book = book
        self._actions = actions
        self._threads = Threads(_MOST_THREADS)
        self._table = ActionTable(actions=[_describe(actions[name]) for name in sorted(actions)])

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"action.list": self.list, "action.run": self.run}

    def list(self, _call: Call, _params: Empty) -> ActionTable:
        return self._table

    async def run(self, call: Call, params: ActionRun) -> ActionResult:
        plugin, action = self._find(params.name)
        _check_granted(call.caller, action)
        if action.needs_agent and params.agent is None:
            raise InvalidArgumentError(
                f"agent: action '{action.name}' is run on an agent, and none is named",
                hint=f"name one: descartesctl action run {action.name} --agent ID",
            )
        agent = None
        if params.agent is not None:
            agent = find(self._book.roster, call.caller, params.agent, "action.run")
        given = _typed(action, params.params)
        context = ActionContext(
            caller=call.caller.id,
            role=call.caller.role,
            agent=None if agent is None else self._book.views.info(agent),
            log=logging.getLogger(f"descartesd.plugins.{plugin}"),
        )
        result = await self._within_time(plugin, action, partial(action.run, context, given))
        return ActionResult(
            action=action.name,
            result=_encoded(plugin, action, result),
            agent_id=None if agent is None else agent.id,
        )

    def _find(self, name: str) -> Registered:
        found = self._actions.get(name)
        if found is None:
            near = codec.nearest(name, self._actions)
            raise NotFoundError(
                f"this server has no action '{name}'",
                hint=f"did you mean '{near}'" if near else "see them: descartesctl action list",
            )
        return found

    async def _within_time(self, plugin: str, action: Action, work: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(action.timeout_s) as limit:
                if inspect.iscoroutinefunction(action.run):
                    return await work()
                return await self._threads.run(f"action {action.name}", work, at_once=True)
        except DescartesError:
            raise
        except NoThreadLeftError as exc:
            raise ResourceExhaustedError(
                f"{_MOST_THREADS} actions run in threads now, and one more cannot",
                hint="those whose time is over still count until they end",
            ) from exc
        except (Exception, SystemExit) as exc:
            if isinstance(exc, TimeoutError) and limit.expired():
                raise DeadlineExceededError(
                    f"action '{action.name}' was not done within {action.timeout_s:g} s, its time",
                    hint=f"look at what it left; it is of plugin '{plugin}'",
                ) from exc
            raise incident(exc, f"action {action.name} of plugin {plugin}") from exc


def _check_granted(caller: Caller, action: Action) -> None:
    """A built-in role runs what its rank allows, any other what it lists."""
    if caller.grants.rank >= RANKS[action.permission]:
        return
    for role in caller.grants.granting("action.run"):
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
