"""The relay tells and asks plugins; whatever one of them does, only it suffers."""

# ruff: noqa: ARG005, PLW0108  # a hook is given the parameters it names

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from descartesd.api import (
    AgentInfo,
    AgentSpec,
    Identity,
    InvalidArgumentError,
    KeyHolder,
    PermissionDeniedError,
    ServerInfo,
    hookimpl,
)
from descartesd.errors import StartupRefusedError
from descartesd.hooks.checks import SPECS
from descartesd.hooks.record import Options, PluginRecord
from descartesd.hooks.relay import Relay
from tests.support.eventually import eventually

SERVER = ServerInfo(server_id="here", version="1", endpoints=())
WHO = Identity(id="uid:7", role="operator")
SPEC = AgentSpec(command=["true"])
QUICK = Options(hook_timeout_s=0.1, bench_failures=3, bench_calls=5, bench_s=0.2)
# What a plugin that hangs in a thread waits for, so that the test leaves none behind.
END = threading.Event()


@pytest.fixture(autouse=True)
def end() -> Iterator[None]:
    END.clear()
    yield
    END.set()


def plugin(**hooks: Callable[..., Any]) -> object:
    """An object with these functions as its hooks."""

    class Plugin:
        pass

    for name, function in hooks.items():
        setattr(Plugin, name, staticmethod(hookimpl(function)))
    return Plugin()


def relay(options: Options = QUICK, **plugins: object) -> Relay:
    made = Relay(options)
    for name, each in plugins.items():
        made.register(each, name)
    return made


def run(made: Relay, work: Callable[[Relay], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        try:
            return await work(made)
        finally:
            await made.close()

    return asyncio.run(main())


async def started(made: Relay) -> None:
    made.daemon_started(SERVER)
    await made.settled()


def hang(**_: Any) -> None:
    END.wait(30)


async def hang_in_the_loop() -> None:
    await asyncio.sleep(30)


async def ignore_the_end() -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(30)


def fail() -> None:
    raise OSError("no disk")


async def fail_in_the_loop() -> None:
    raise SystemExit(3)


async def nothing() -> None:
    return None


def leak() -> Any:
    return nothing()


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (fail, "OSError: no disk"),
    "raises SystemExit in the loop": (fail_in_the_loop, "SystemExit: 3"),
    "hangs": (lambda: END.wait(30), "more than 0.1 s"),
    "hangs in the loop": (hang_in_the_loop, "more than 0.1 s"),
    "ignores its cancellation": (ignore_the_end, "more than 0.1 s"),
    "answers junk": (lambda: object(), "answered object"),
    "leaks a coroutine": (leak, "nobody awaits"),
}
each_fault = pytest.mark.parametrize(("function", "fault"), FAULTS.values(), ids=FAULTS)


def test_a_method_of_the_relay_takes_what_its_hook_takes() -> None:
    for name, spec in SPECS.items():
        method = inspect.signature(getattr(Relay, name))

        assert list(method.parameters)[1:] == list(spec.parameters), name


@each_fault
def test_a_fact_harms_only_the_plugin_that_cannot_take_it(
    function: Callable[..., Any], fault: str
) -> None:
    told: list[ServerInfo] = []
    made = relay(
        bad=plugin(daemon_started=function),
        good=plugin(daemon_started=lambda server: told.append(server)),
    )

    run(made, started)

    assert told == [SERVER]
    bad, good = made.records["bad"], made.records["good"]
    assert (bad.calls, bad.errors) == (1, 1)
    assert bad.last_error is not None
    assert fault in bad.last_error
    assert (good.calls, good.errors, good.state) == (1, 0, "loaded")


def test_nobody_waits_for_a_plugin_that_is_told() -> None:
    async def work(made: Relay) -> float:
        began = time.monotonic()
        for _ in range(100):
            made.daemon_started(SERVER)
        return time.monotonic() - began

    took_s = run(relay(slow=plugin(daemon_started=lambda: END.wait(30))), work)

    assert took_s < 0.1


def test_facts_come_in_order_to_plain_functions_and_to_coroutine_functions() -> None:
    plain: list[str] = []
    awaited: list[str] = []

    async def take(server: ServerInfo) -> None:
        await asyncio.sleep(0)
        awaited.append(server.server_id)

    made = relay(
        plain=plugin(daemon_started=lambda server: plain.append(server.server_id)),
        awaited=plugin(daemon_started=take),
    )

    async def work(made: Relay) -> None:
        for number in range(50):
            made.daemon_started(ServerInfo(server_id=str(number), version="", endpoints=()))
        await made.settled()

    run(made, work)

    assert plain == awaited == [str(number) for number in range(50)]


def test_facts_that_are_too_many_for_a_plugin_are_dropped_and_counted() -> None:
    async def work(made: Relay) -> None:
        for _ in range(1200):
            made.daemon_started(SERVER)

    made = relay(slow=plugin(daemon_started=lambda: END.wait(30)))
    run(made, work)

    assert 190 <= made.records["slow"].dropped <= 200


def test_a_plugin_that_keeps_failing_is_benched_and_tried_again() -> None:
    works = threading.Event()
    benched: list[tuple[str, bool]] = []

    def shaky() -> None:
        if not works.is_set():
            raise OSError("not yet")

    def note(record: PluginRecord, is_benched: bool) -> None:
        benched.append((record.name, is_benched))

    made = relay(shaky=plugin(daemon_started=shaky))
    record = made.records["shaky"]
    record.on_bench = note

    async def work(made: Relay) -> None:
        for _ in range(5):
            await started(made)
        assert (record.state, record.calls) == ("benched", 3)
        assert made.problem == "plugin 'shaky' is benched: daemon_started: OSError: not yet"
        works.set()
        await asyncio.to_thread(eventually, record.may_be_called)
        record.went_well(time.perf_counter_ns())
        await started(made)

    run(made, work)

    assert benched == [("shaky", True), ("shaky", False)]
    assert (record.state, made.problem) == ("loaded", None)


# -- questions


def ask(made: Relay) -> Any:
    return run(made, lambda made: made.authorize_request(WHO, "agent.stop", "web"))


def spawning(made: Relay) -> Any:
    return run(made, lambda made: made.agent_spawning(SPEC, WHO))


def knowing(made: Relay) -> Any:
    return run(made, lambda made: made.authenticate_key("K", "1.2.3.4"))


@each_fault
def test_authorize_request_fails_closed(function: Callable[..., Any], fault: str) -> None:
    made = relay(bad=plugin(authorize_request=function))

    with pytest.raises(PermissionDeniedError, match="plugin 'bad' has to allow it") as refused:
        ask(made)

    assert fault in refused.value.message
    assert made.records["bad"].errors == 1


@each_fault
def test_authenticate_key_fails_closed(function: Callable[..., Any], fault: str) -> None:
    made = relay(
        bad=plugin(authenticate_key=function),
        good=plugin(authenticate_key=lambda: KeyHolder(name="eve", role="admin")),
    )

    assert knowing(made) is None
    assert fault in str(made.records["bad"].last_error)


@each_fault
def test_agent_spawning_goes_on_without_a_plugin_that_fails(
    function: Callable[..., Any], fault: str
) -> None:
    other = AgentSpec(command=["false"])
    made = relay(
        bad=plugin(agent_spawning=function), good=plugin(agent_spawning=lambda spec: other)
    )

    assert spawning(made) is other
    assert fault in str(made.records["bad"].last_error)


def test_authorize_request_refuses_by_false_and_by_an_error_and_allows_by_nothing() -> None:
    def refuse(target: str | None) -> None:
        raise InvalidArgumentError(f"not on {target}")

    assert ask(relay(fine=plugin(authorize_request=lambda: True))) is None
    assert ask(relay(fine=plugin(authorize_request=lambda method: None))) is None
    with pytest.raises(PermissionDeniedError, match=r"plugin 'no' does not allow agent\.stop"):
        ask(relay(no=plugin(authorize_request=lambda: False)))
    with pytest.raises(InvalidArgumentError, match="not on web"):
        ask(relay(no=plugin(authorize_request=refuse)))


def test_a_benched_plugin_lets_nobody_in_and_no_agent_wait() -> None:
    async def work(made: Relay) -> AgentSpec:
        for _ in range(4):
            with pytest.raises(PermissionDeniedError, match="gave no answer"):
                await made.authorize_request(WHO, "agent.get", None)
        with pytest.raises(PermissionDeniedError, match="failed too often"):
            await made.authorize_request(WHO, "agent.get", None)
        return await made.agent_spawning(SPEC, WHO)

    bad = plugin(authorize_request=fail, agent_spawning=lambda: AgentSpec(command=["x"]))
    options = QUICK._replace(bench_s=30.0)

    assert run(relay(options, bad=bad), work) is SPEC


def test_agent_spawning_gives_each_plugin_what_the_one_before_has_made() -> None:
    def add(word: str) -> Callable[[AgentSpec], AgentSpec]:
        return lambda spec: AgentSpec(command=[*spec.command, word])

    made = relay(
        first=plugin(agent_spawning=add("1")),
        second=plugin(agent_spawning=lambda: None),
        third=plugin(agent_spawning=add("3")),
    )

    assert spawning(made).command == ["true", "1", "3"]


def test_authenticate_key_believes_the_first_that_knows_the_key() -> None:
    made = relay(
        first=plugin(authenticate_key=lambda key: None),
        second=plugin(authenticate_key=lambda key, address: KeyHolder(name=key, role="observer")),
        third=plugin(authenticate_key=lambda: KeyHolder(name="other", role="admin")),
    )

    assert knowing(made) == KeyHolder(name="K", role="observer")


# -- registering


async def coroutine() -> list[Any]:
    return []


@pytest.mark.parametrize(
    ("hooks", "fault"),
    [
        ({"agent_startd": lambda: None}, "hook 'agent_startd': there is no such hook"),
        ({"agent_started": lambda agnet: None}, "it takes 'agnet', which it is not given"),
        ({"agent_started": lambda **rest: None}, "parameters go by their names"),
        ({"register_actions": coroutine}, "it is a coroutine function"),
        ({"agent_started": lambda: (yield)}, "it is a generator"),
    ],
)
def test_a_hook_that_does_not_fit_is_refused_with_the_remedy(
    hooks: dict[str, Callable[..., Any]], fault: str
) -> None:
    with pytest.raises(StartupRefusedError, match="plugin 'bad' does not fit") as refused:
        relay(bad=plugin(**hooks))

    assert fault in refused.value.message
    assert "descartesctl plugin check bad" in str(refused.value.hint)


def test_a_hook_that_is_not_marked_is_refused() -> None:
    class Unmarked:
        def agent_started(self, agent: AgentInfo) -> None:
            """Do nothing."""

    with pytest.raises(StartupRefusedError, match="it is not marked with @hookimpl"):
        relay(bad=Unmarked())


def test_two_plugins_of_one_name_are_refused() -> None:
    made = relay(one=plugin())

    with pytest.raises(StartupRefusedError, match="'one' does not fit"):
        made.register(plugin(), "one")


@each_fault
def test_a_contribution_that_fails_refuses_the_start(
    function: Callable[..., Any], fault: str
) -> None:
    if inspect.iscoroutinefunction(function):
        return
    with pytest.raises(StartupRefusedError, match="plugin 'bad' cannot register its metrics"):
        relay(bad=plugin(register_metrics=function)).register_metrics()
