"""Batches, with functions of the test's own behind the verbs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.journal import Journal
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.monitor import Monitor
from descartesd.agents.output import OutputFiles
from descartesd.agents.record import Agent
from descartesd.agents.recovery import reconcile
from descartesd.agents.registry import Registry
from descartesd.agents.spec import RunnerDefaults
from descartesd.agents.starting import FleetOptions
from descartesd.agents.talk import Talk
from descartesd.errors import (
    AbortedError,
    ConflictError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from descartesd.methods.agent import AgentMethods
from descartesd.methods.batch import BatchMethods, what_was_spawned
from descartesd.methods.call import Call
from descartesd.methods.grants import BUILTIN
from descartesd.methods.policy import Caller
from descartesd.transport.server import Peer
from descartesd.wire import codec
from descartesd.wire.agent import AgentSpec, State
from descartesd.wire.batch import BatchItem, BatchResult, BatchRun, Selector
from descartesd.wire.server import Done, Role
from tests.support.scriptedkeeper import ScriptedKeeper

ENOUGH = 1 << 20
Verb = Callable[[Call, Any], Coroutine[Any, Any, Struct]]


def agent(number: int, state: State = "running", **fields: Any) -> Agent:
    return Agent(
        id=f"{number:020d}",
        name=f"a{number}",
        owner="uid:7",
        spec=AgentSpec(command=["true"], **fields),
        created_at=1.0,
        state=state,
    )


def call(role: Role = "operator") -> Call:
    caller = Caller("uid:7", role, BUILTIN[role])
    return Call(caller, Peer(b"", delimited=False, user_id="uid:7", fd=0), 0, idem="key")


async def done(_call: Call, _params: Any) -> Struct:
    return Done()


class Scene:
    """A book with agents, and verbs that do what a test says."""

    def __init__(self, directory: Path) -> None:
        self.registry = Registry(str(directory / "registry.sqlite"))
        output = OutputFiles(str(directory))
        self.book = Book(self.registry, Journal(self.registry), output, "here")
        options = FleetOptions(100, RunnerDefaults(None, ("/bin",), 65_536))
        self.link = KeeperLink(on_lost=lambda: None)
        self.fleet = Fleet(self.book, self.link, options)
        # Nobody here chats, and so nobody is listened to.
        self.talk = Talk(self.book, self.fleet, self.link, cast("Monitor", None))
        self.most = ENOUGH

    def has(self, *agents: Agent) -> None:
        self.book.load(agents)

    def run(self, verb: Verb | None, request: BatchRun, role: Role = "operator") -> BatchResult:
        verbs = dict(AgentMethods(self.book, self.fleet, self.talk).handlers())
        if verb is not None:
            verbs[f"agent.{request.verb}"] = verb
        batch = BatchMethods(self.book, self.fleet, verbs, self.most)
        return asyncio.run(batch.run(call(role), request))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.registry.close()


def told(result: BatchResult) -> list[tuple[str, str | None]]:
    return [(item.id, item.error and item.error.code) for item in result.results]


def test_items_come_in_the_order_asked_and_each_agent_is_done_once(scene: Scene) -> None:
    scene.has(agent(1), agent(2))
    did: list[str] = []

    async def kill(_call: Call, params: Any) -> Struct:
        did.append(params.id)
        return Done()

    result = scene.run(kill, BatchRun(verb="kill", ids=["a2", "nobody", "a1", agent(2).id]))

    assert told(result) == [
        ("a2", None), ("nobody", "not_found"), ("a1", None), (agent(2).id, None),
    ]  # fmt: skip
    assert did == [agent(2).id, agent(1).id]
    assert (result.succeeded, result.failed) == (3, 1)
    assert result.results[0].agent == result.results[3].agent == agent(2).info("here")


def test_a_selector_means_the_agents_it_holds_for_oldest_first(scene: Scene) -> None:
    scene.has(
        agent(3, labels={"app": "web"}),
        agent(1, labels={"app": "web"}),
        agent(2, "paused", labels={"app": "web"}),
        agent(4),
    )
    select = Selector(labels=["app=web"], states=["running"], owner="uid:7")

    assert told(scene.run(done, BatchRun(verb="kill", select=select))) == [
        (agent(1).id, None),
        (agent(3).id, None),
    ]
    assert len(scene.run(done, BatchRun(verb="kill", select=Selector(all=True))).results) == 4
    assert scene.run(done, BatchRun(verb="kill", select=Selector(owner="uid:8"))).results == []


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (BatchRun(verb="kill"), "ids: no agent is named"),
        (BatchRun(verb="kill", select=Selector()), "select: expected labels, states, owner or all"),
        (BatchRun(verb="kill", ids=["a1"], select=Selector(all=True)), "both are given"),
        (BatchRun(verb="kill", select=Selector(labels=["a b"])), r"select\.labels\[0\]: 'a b'"),
        (
            BatchRun(verb="stop", ids=["a1"], params={"grase_s": 1.0}),
            "params: unknown key 'grase_s': did you mean 'grace_s'",
        ),
        (BatchRun(verb="stop", ids=["a1"], params={"grace_s": "1"}), "params: grace_s: expected"),
        (BatchRun(verb="signal", ids=["a1"]), "params: .*missing required field `signal`"),
        (BatchRun(verb="stop", ids=["a1"], params={"id": "a2"}), "params: 'id' has no place here"),
    ],
)
def test_a_wrong_batch_is_refused_whole(scene: Scene, request_: BatchRun, sentence: str) -> None:
    scene.has(agent(1))

    async def never(_call: Call, _params: Any) -> Struct:
        raise AssertionError

    with pytest.raises(InvalidArgumentError, match=sentence):
        scene.run(never, request_)


def test_the_role_needed_is_the_verbs(scene: Scene) -> None:
    scene.has(agent(1))

    with pytest.raises(PermissionDeniedError, match=r"agent\.kill needs the role operator"):
        scene.run(done, BatchRun(verb="kill", ids=["a1"], dry_run=True), "observer")
    assert scene.run(None, BatchRun(verb="get", ids=["a1"]), "observer").succeeded == 1


def test_params_are_the_verbs_own_and_the_key_is_not_handed_on(scene: Scene) -> None:
    scene.has(agent(1), agent(2))
    seen = []

    async def stop(call: Call, params: Any) -> Struct:
        seen.append((params.id, params.signal, params.grace_s, call.idem))
        return Done()

    scene.run(stop, BatchRun(verb="stop", ids=["a1", "a2"], params={"grace_s": 1, "signal": "INT"}))

    assert seen == [(agent(n).id, "INT", 1.0, None) for n in (1, 2)]


def test_with_fail_fast_nothing_begins_after_the_first_failure(scene: Scene) -> None:
    scene.has(*map(agent, range(1, 5)))
    begun: list[str] = []

    async def pause(_call: Call, params: Any) -> Struct:
        begun.append(params.id)
        await asyncio.sleep(0)
        if params.id == agent(2).id:
            raise ConflictError("no")
        return Done()

    ids = ["a1", "a2", "a3", "nobody"]
    result = scene.run(pause, BatchRun(verb="pause", ids=ids, fail_fast=True))

    assert begun == [agent(1).id, agent(2).id]
    assert told(result) == [
        ("a1", None), ("a2", "conflict"), ("a3", "aborted"), ("nobody", "aborted"),
    ]  # fmt: skip
    error = result.results[2].error
    assert error is not None
    assert "not attempted" in error.message


def test_dry_run_changes_nothing_and_tells_who_would_refuse(scene: Scene) -> None:
    scene.has(agent(1), agent(2, "completed"), agent(3, "paused"))

    async def never(_call: Call, _params: Any) -> Struct:
        raise AssertionError

    ids = ["a1", "a2", "a3"]
    for verb, refusing in (("pause", ["a2"]), ("remove", ["a1", "a3"]), ("kill", [])):
        result = scene.run(never, BatchRun(verb=verb, ids=ids, dry_run=True))  # type: ignore[arg-type]
        assert [item.id for item in result.results if not item.ok] == refusing
        assert {item.error.code for item in result.results if item.error} <= {"conflict"}
        assert [item.agent.state for item in result.results if item.agent] == [
            state
            for word, state in zip(ids, ("running", "completed", "paused"), strict=True)
            if word not in refusing
        ]


@pytest.mark.parametrize(("verb", "most"), [("pause", 128), ("stop", 150)])
def test_so_many_are_done_at_once_and_no_more(scene: Scene, verb: Any, most: int) -> None:
    scene.has(*map(agent, range(150)))
    now, peak = 0, 0

    async def work(_call: Call, _params: Any) -> Struct:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        for _ in range(5):
            await asyncio.sleep(0)
        now -= 1
        return Done()

    assert scene.run(work, BatchRun(verb=verb, select=Selector(all=True))).succeeded == 150
    assert peak == most


def test_others_get_their_turn_while_nothing_in_a_batch_waits(scene: Scene) -> None:
    scene.has(*map(agent, range(1000)))
    turns = 0

    async def look_on() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> BatchResult:
        verbs = AgentMethods(scene.book, scene.fleet, scene.talk).handlers()
        batch = BatchMethods(scene.book, scene.fleet, verbs, ENOUGH)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(look_on())
            result = await batch.run(call(), BatchRun(verb="get", select=Selector(all=True)))
            looking.cancel()
        return result

    assert asyncio.run(scenario()).succeeded == 1000
    assert turns > 10


def test_a_bug_under_one_agent_is_an_incident_of_that_agent(scene: Scene) -> None:
    scene.has(agent(1), agent(2))

    async def kill(_call: Call, params: Any) -> Struct:
        if params.id == agent(1).id:
            raise ZeroDivisionError("a secret")
        return Done()

    result = scene.run(kill, BatchRun(verb="kill", ids=["a1", "a2"]))

    assert told(result) == [("a1", "internal"), ("a2", None)]
    assert "secret" not in str(result)


def test_agents_too_many_for_one_message_are_left_out_at_the_end(scene: Scene) -> None:
    scene.has(*(agent(n, env={"PADDING": "x" * 200}) for n in range(100)))
    scene.most = 20_000
    ids = ["nobody", *(f"a{number}" for number in range(100))]

    result = scene.run(None, BatchRun(verb="get", ids=ids))

    assert len(codec.encode(result)) < scene.most
    assert (len(result.results), result.succeeded, result.failed) == (101, 100, 1)
    shown = [item.agent is not None for item in result.results[1:]]
    assert shown == sorted(shown, reverse=True)
    assert 20 < sum(shown) < 100
    assert all(item.ok for item in result.results[1:])


def test_an_agent_reserved_before_the_keeper_was_lost_is_never_started(
    scene: Scene, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first.sock"), str(tmp_path / "second.sock")

    async def scenario() -> None:
        with closing(ScriptedKeeper(first)):
            await scene.link.connect(first)
            reserved = scene.fleet.starts.reserve(AgentSpec(command=["true"]), "uid:7")
            scene.link.close()
        with closing(ScriptedKeeper(second)) as keeper:
            await scene.link.connect(second)
            await reconcile(scene.book, Facts(scene.book, scene.link), scene.link, "keeper_lost")

            with pytest.raises(AbortedError):
                await scene.fleet.starts.start(reserved)

            assert keeper.of("spawn") == []
            scene.link.close()

    asyncio.run(scenario())
    assert len(scene.book.roster) == 0


def test_a_batch_that_was_cut_short_is_told_by_the_agents_there_are(scene: Scene) -> None:
    scene.has(agent(1), agent(3, "completed"))

    bound = f"{agent(1).id} {agent(2).id} - {agent(3).id}"
    result = what_was_spawned(scene.book, bound, ENOUGH)

    assert told(result) == [
        (agent(1).id, None), ("specs[1]", "aborted"), ("specs[2]", "aborted"), (agent(3).id, None),
    ]  # fmt: skip
    assert (result.succeeded, result.failed) == (2, 2)
    assert isinstance(result.results[0], BatchItem)
