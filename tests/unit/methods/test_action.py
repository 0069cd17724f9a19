"""Custom actions of plugins made for the test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from descartesd.agents.book import Book
from descartesd.agents.journal import Journal
from descartesd.agents.output import OutputFiles
from descartesd.agents.record import Agent
from descartesd.agents.registry import Registry
from descartesd.api import Action, ActionContext, Empty, NotFoundError, hookimpl
from descartesd.builtin import actions as builtin
from descartesd.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StartupRefusedError,
)
from descartesd.hooks.relay import Registered, Relay
from descartesd.methods.action import ActionMethods
from descartesd.methods.call import Call
from descartesd.methods.grants import BUILTIN
from descartesd.methods.policy import Caller
from descartesd.transport.server import Peer
from descartesd.wire.action import ActionRun
from descartesd.wire.agent import AgentSpec
from descartesd.wire.server import Role

WEB = Agent(
    id="0" * 20,
    name="web",
    owner="uid:7",
    spec=AgentSpec(command=["true"], env={"COLOUR": "blue"}),
    created_at=time.time(),
    state="running",
)


class Sum(Struct, forbid_unknown_fields=True):
    """Two numbers."""

    left: int
    right: int = 1


class Plugin:
    """Registers what it is given."""

    def __init__(self, *actions: Action) -> None:
        self._actions = actions

    @hookimpl
    def register_actions(self) -> Iterable[Action]:
        return self._actions


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    registry = Registry(str(tmp_path / "registry.sqlite"))
    made = Book(registry, Journal(registry), OutputFiles(str(tmp_path)), "here")
    made.load([WEB])
    yield made
    registry.close()


def registered(plugin: object, name: str) -> dict[str, Registered]:
    relay = Relay()
    relay.register(builtin, "builtin")
    relay.register(plugin, name)
    return relay.register_actions()


def methods(book: Book, *actions: Action) -> ActionMethods:
    return ActionMethods(book, registered(Plugin(*actions), "sums"))


def call(role: Role = "operator") -> Call:
    caller = Caller("uid:7", role, BUILTIN[role])
    return Call(caller, Peer(b"", delimited=False, user_id="uid:7", fd=0), 0)


def run(methods: ActionMethods, name: str, role: Role = "operator", **fields: Any) -> Any:
    result = asyncio.run(methods.run(call(role), ActionRun(name=name, **fields)))
    assert result.action == name
    return msgspec.msgpack.decode(result.result)


async def add(context: ActionContext, params: Sum) -> dict[str, Any]:
    await asyncio.sleep(0)
    agent = context.agent and context.agent.name
    return {"sum": params.left + params.right, "by": context.caller, "on": agent}


def add_in_a_thread(context: ActionContext, params: Sum) -> dict[str, Any]:
    thread = threading.current_thread() is not threading.main_thread()
    return {"sum": params.left + params.right, "role": context.role, "thread": thread}


def action(run: Any, name: str = "add", **fields: Any) -> Action:
    return Action(name=name, summary="Add.", run=run, **{"params": Sum, **fields})


def test_a_coroutine_function_is_run_with_its_parameters_and_who_asked(book: Book) -> None:
    mine = methods(book, action(add))

    assert run(mine, "add", params={"left": 2}) == {"sum": 3, "by": "uid:7", "on": None}
    assert run(mine, "add", params={"left": 2, "right": 2}, agent="web")["on"] == "web"


def test_a_plain_function_is_run_in_a_thread(book: Book) -> None:
    mine = methods(book, action(add_in_a_thread))

    found = run(mine, "add", params={"left": 2})

    assert found == {"sum": 3, "role": "operator", "thread": True}


def test_the_list_shows_every_action_with_its_schema(book: Book) -> None:
    mine = methods(book, action(add, permission="admin", timeout_s=2.5, needs_agent=True))

    table = mine.list(call(), Empty()).actions  # type: ignore[arg-type]

    assert [(each.name, each.plugin) for each in table] == [
        ("add", "sums"), ("echo", "builtin"), ("get_env", "builtin"), ("ping", "builtin"),
    ]  # fmt: skip
    shown = table[0]
    assert (shown.permission, shown.timeout_s, shown.needs_agent) == ("admin", 2.5, True)
    assert shown.params["$defs"]["Sum"]["required"] == ["left"]


def test_builtin_actions_answer(book: Book) -> None:
    mine = methods(book)

    assert run(mine, "echo", "observer", params={"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}
    assert run(mine, "ping", "observer", agent="web") == "pong"
    told = run(mine, "get_env", "observer", agent="web")
    assert 0 <= told.pop("last_status_update_secs") < 3600
    assert told == {
        "status": "running", "name": "web", "agent_id": WEB.id, "env": ["COLOUR"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "error", "sentence"),
    [
        ("ad", {}, NotFoundError, "no action 'ad'"),
        ("add", {}, InvalidArgumentError, "params: .*missing required field `left`"),
        ("add", {"params": {"left": "1"}}, InvalidArgumentError, "params: left: expected `int`"),
        (
            "add",
            {"params": {"left": 1, "rihgt": 1}},
            InvalidArgumentError,
            "params: unknown key 'rihgt': did you mean 'right'",
        ),
        ("ping", {"params": {"x": 1}}, InvalidArgumentError, "params: unknown key 'x'"),
        ("get_env", {}, InvalidArgumentError, "agent: action 'get_env' is run on an agent"),
        ("ping", {"agent": "nobody"}, NotFoundError, "no agent 'nobody'"),
    ],
)
def test_a_wrong_request_is_refused(
    book: Book, name: str, fields: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        run(methods(book, action(add)), name, **fields)


def test_an_unknown_action_is_told_the_nearest(book: Book) -> None:
    with pytest.raises(NotFoundError) as refused:
        run(methods(book), "pign")

    assert refused.value.hint == "did you mean 'ping'"


def test_the_role_needed_is_the_actions(book: Book) -> None:
    mine = methods(book, action(add, permission="admin"))

    with pytest.raises(PermissionDeniedError, match="'add' needs the role admin; uid:7 is operat"):
        run(mine, "add", params={"left": 1})
    assert run(mine, "add", "admin", params={"left": 1})["sum"] == 2


async def hang(_context: ActionContext, _params: Any) -> None:
    await asyncio.get_running_loop().create_future()


def test_an_action_that_hangs_is_given_up_after_its_time(book: Book) -> None:
    mine = methods(book, action(hang, "hang", timeout_s=0.05, params=Empty))

    with pytest.raises(DeadlineExceededError, match=r"'hang' was not done within 0\.05 s"):
        run(mine, "hang")


def test_threads_that_hang_are_given_up_and_bounded(book: Book) -> None:
    release = threading.Event()
    begun = []

    def hang(_context: ActionContext, _params: Any) -> None:
        begun.append(threading.current_thread())
        release.wait(30)

    mine = methods(book, action(hang, "hang", timeout_s=0.05, params=Empty))

    async def scenario() -> list[Exception]:
        request = ActionRun(name="hang")
        work = (mine.run(call(), request) for _ in range(33))
        return list(await asyncio.gather(*work, return_exceptions=True))  # type: ignore[arg-type]

    answers = asyncio.run(scenario())

    release.set()
    for thread in begun:
        thread.join(5)
    assert len(begun) == 32
    assert [type(each) for each in answers] == [DeadlineExceededError] * 32 + [
        ResourceExhaustedError
    ]


@pytest.mark.parametrize("error", [ZeroDivisionError("a secret"), TimeoutError("a secret")])
@pytest.mark.parametrize("is_async", [True, False])
def test_an_exception_of_an_action_is_an_incident(
    book: Book, error: Exception, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_context: ActionContext, _params: Any) -> None:
        raise error

    async def fail_later(context: ActionContext, params: Any) -> None:
        fail(context, params)

    mine = methods(book, action(fail_later if is_async else fail, "fail", params=Empty))

    with pytest.raises(InternalError, match="incident") as raised:
        run(mine, "fail")

    assert "secret" not in raised.value.message
    (record,) = [each for each in caplog.records if each.getMessage() == "internal"]
    assert record.__dict__["method"] == "action fail of plugin sums"


@pytest.mark.parametrize("is_async", [True, False])
def test_an_action_cannot_end_the_server(book: Book, is_async: bool) -> None:
    def leave(_context: ActionContext, _params: Any) -> None:
        raise SystemExit(3)

    async def leave_later(context: ActionContext, params: Any) -> None:
        leave(context, params)

    mine = methods(book, action(leave_later if is_async else leave, "leave", params=Empty))

    with pytest.raises(InternalError, match="incident"):
        run(mine, "leave")


def test_an_error_of_the_family_passes_as_it_is(book: Book) -> None:
    def refuse(_context: ActionContext, _params: Any) -> None:
        raise NotFoundError("no such colour", hint="take blue")

    with pytest.raises(NotFoundError, match="no such colour") as raised:
        run(methods(book, action(refuse, "refuse", params=Empty)), "refuse")

    assert raised.value.hint == "take blue"


@pytest.mark.parametrize("answer", [object(), 1 << 70, "\ud800"], ids=["object", "int", "text"])
def test_an_answer_that_cannot_be_sent_names_the_plugin(book: Book, answer: Any) -> None:
    async def odd(_context: ActionContext, _params: Any) -> Any:
        return answer

    with pytest.raises(InternalError, match="action 'odd' of plugin 'sums' answered what cannot"):
        run(methods(book, action(odd, "odd", params=Empty)), "odd")


class Broken:
    @hookimpl
    def register_actions(self) -> Iterable[Action]:
        raise OSError("no such library")


class Late:
    @hookimpl
    async def register_actions(self) -> Iterable[Action]:
        return []


class Misspelt:
    @hookimpl
    def register_action(self) -> Iterable[Action]:
        return []


class Curious:
    @hookimpl
    def register_actions(self, server: object) -> Iterable[Action]:  # noqa: ARG002
        return []


class Faulty:
    @hookimpl
    def register_actions(self) -> Iterable[Any]:
        return ["echo"]


class Named:
    @hookimpl
    def register_actions(self) -> Iterable[Action]:
        return [action(add, "Add Up")]


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (Broken(), "cannot register its actions: OSError: no such library"),
        (Late(), "coroutine function"),
        (Misspelt(), "register_action"),
        (Curious(), "server"),
        (Faulty(), "str is no Action"),
        (Named(), "ValueError: action 'Add Up': expected a name of"),
        (Plugin(action(add, "ping")), "registers the action 'ping', which plugin 'builtin'"),
    ],
)
def test_a_plugin_that_does_not_fit_stops_the_start_and_is_named(
    plugin: object, sentence: str
) -> None:
    with pytest.raises(StartupRefusedError, match=rf"'colours'.*{sentence}"):
        registered(plugin, "colours")


class Loose(Struct):
    left: int = 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "9"}, "expected a name"),
        ({"permission": "root"}, "permission is 'root', expected one of observer, operator, admin"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"params": Loose}, "forbid_unknown_fields=True"),
        ({"params": int}, "forbid_unknown_fields=True"),
    ],
)
def test_an_action_that_cannot_be_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        action(add, **fields)
