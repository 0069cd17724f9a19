"""Registry and keeper made to agree, with a keeper that says what a test tells it to."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import pytest
from msgspec import structs

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.journal import Journal
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.output import OutputFiles
from descartesd.agents.record import Agent, from_row
from descartesd.agents.recovery import reconcile
from descartesd.agents.registry import Registry
from descartesd.agents.spec import RunnerDefaults
from descartesd.agents.starting import FleetOptions
from descartesd.keeper import protocol
from descartesd.wire.agent import AgentSpec, Reason, State
from tests.support.scriptedkeeper import ScriptedKeeper, status
from tests.support.scriptedkeeper import record as agent

NOW = 5000.0
PID_MAX_LIMIT = 4 * 1024 * 1024  # proc(5), pid_max on 64-bit hosts


class Scene:
    """A fleet with a registry on disk, connected to a scripted keeper."""

    def __init__(self, directory: Path) -> None:
        self.database = str(directory / "registry.sqlite")
        self._socket = str(directory / "keeper.sock")
        self.registry = Registry(self.database)
        self.link = KeeperLink(on_lost=lambda: None)
        self.book = Book(
            self.registry,
            Journal(self.registry),
            OutputFiles(str(directory)),
            "here",
            clock=lambda: NOW,
        )
        self.facts = Facts(self.book, self.link)
        runner = RunnerDefaults(None, ("/bin",), 65_536)
        self.fleet = Fleet(self.book, self.link, FleetOptions(100, runner))

    async def __aenter__(self) -> Self:
        self.keeper = ScriptedKeeper(self._socket)
        await self.link.connect(self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.link.close()
        self.keeper.close()
        self.registry.close()

    def load(self, *agents: Agent) -> None:
        for each in agents:
            self.registry.put_agent(each)
        assert self.registry.save()
        self.book.load(self.registry.agents())

    async def reconcile(self, reason: Reason = "keeper_lost") -> list[str]:
        unknown = await reconcile(self.book, self.facts, self.link, reason)
        await self.registry.durable()
        # What was asked without waiting has been heard once this is answered.
        await self.link.request("hello", version=protocol.VERSION)
        return unknown

    def get(self, of: Agent) -> Agent:
        found = self.book.roster.get(of.id)
        assert found is not None
        return found

    def stored(self, agent_id: str) -> Agent | None:
        """Read the record as another process sees it."""
        database = sqlite3.connect(self.database)
        row = database.execute("SELECT record FROM agents WHERE id = ?", (agent_id,)).fetchone()
        database.close()
        return row and from_row(row[0])


def run(directory: Path, test: Callable[[Scene], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with Scene(directory) as scene:
            await test(scene)

    asyncio.run(inside())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("running", "running"), ("running", "paused"), ("running", "stopping"),
        ("paused", "running"), ("paused", "paused"), ("paused", "stopping"),
        ("stopping", "stopping"),
    ],
)  # fmt: skip
def test_agent_the_keeper_has_is_in_the_state_the_keeper_tells(
    tmp_path: Path, before: State, after: State
) -> None:
    ended_by = "stop" if after == "stopping" else None

    async def test(scene: Scene) -> None:
        one = agent(1, before)
        scene.load(one)
        scene.keeper.pages = [[status(one, after, ended_by=ended_by)]]

        assert await scene.reconcile() == []

        found = scene.get(one)
        assert (found.state, found.pid) == (after, 101)
        assert found.paused_at == (3.0 if after == "paused" and before != after else None)
        assert scene.stored(one.id) == found
        assert scene.keeper.of("recover") == []

    run(tmp_path, test)


@pytest.mark.parametrize("by", ["list", "fact"])
def test_what_was_left_and_found_after_the_end_was_told_is_counted_durably(
    tmp_path: Path, by: str
) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1)
        scene.load(one)
        scene.keeper.pages = [[status(one, "exited", leftovers=1)]]
        await scene.reconcile()
        before = scene.get(one).outcome
        assert before is not None
        assert before.leftovers == 1

        recounted = status(one, "exited", leftovers=3)
        if by == "list":
            scene.keeper.pages = [[recounted]]
        else:
            scene.keeper.tell("exited", recounted)
        await scene.reconcile()

        stored = scene.stored(one.id)
        assert stored is not None
        assert stored.outcome == structs.replace(before, leftovers=3)

    run(tmp_path, test)


def test_start_nobody_answered_is_completed_when_the_keeper_has_it(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1, "starting")
        scene.load(one)
        scene.keeper.pages = [[status(one)]]

        await scene.reconcile()

        found = scene.get(one)
        assert (found.state, found.pid, found.start_time, found.started_at) == (
            "running", 101, 7, 2.0,
        )  # fmt: skip

    run(tmp_path, test)


def test_exit_is_taken_over_and_durable_before_the_keeper_may_forget_it(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        agents = [agent(number) for number in range(3)]
        scene.load(*agents)
        scene.keeper.pages = [
            [status(each, "exited", exit_code=code) for code, each in enumerate(agents)]
        ]
        durable: dict[str, State] = {}

        def note(op: str, agent_id: str) -> None:
            stored = scene.stored(agent_id)
            if op == "forget" and stored is not None:
                durable[agent_id] = stored.state

        scene.keeper.before_reply = note
        await scene.reconcile()

        assert list(durable.values()) == ["completed", "failed", "failed"]
        assert [scene.get(each).outcome.exit_code for each in agents] == [0, 1, 2]  # type: ignore[union-attr]
        assert all(scene.get(each).eof for each in agents)

    run(tmp_path, test)


def test_exit_whose_output_has_not_ended_is_kept_by_the_keeper(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1)
        scene.load(one)
        scene.keeper.pages = [[status(one, "exited", eof=False)]]

        await scene.reconcile()

        assert scene.get(one).state == "completed"
        assert not scene.get(one).eof
        assert scene.keeper.of("forget") == []

    run(tmp_path, test)


def test_agent_the_keeper_lost_is_lost_after_what_is_left_of_it_was_ended(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        running, starting = agent(1), agent(2, "starting")
        ended = agent(3, "failed", eof=True)
        scene.load(running, starting, ended)

        await scene.reconcile()

        (request,) = scene.keeper.of("recover")
        first, second = request["agents"]
        assert first == {"agent_id": running.id, "pid": 101, "start_time": 7}
        assert second["agent_id"] == starting.id
        assert second["pid"] > PID_MAX_LIMIT
        lost = scene.get(running)
        assert (lost.state, lost.ended_at, lost.eof) == ("lost", NOW, True)
        assert lost.outcome is not None
        assert (lost.outcome.reason, lost.outcome.exit_code) == ("keeper_lost", None)
        assert scene.book.roster.get(starting.id) is None
        assert scene.stored(starting.id) is None
        assert "a2" not in scene.book.roster.names
        assert scene.get(ended).state == "failed"

    run(tmp_path, test)


def test_what_a_dead_keeper_let_stay_is_ended_once_and_by_id_alone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        keeping, gone, other = (agent(number, "completed", eof=True) for number in range(3))
        for each in (keeping, gone):
            each.spec = AgentSpec(command=["true"], on_exit="keep")
        scene.load(keeping, gone, other)
        scene.book.forget(scene.get(gone))
        assert scene.registry.save()
        scene.book.kept = []
        scene.book.load([])

        await scene.reconcile()
        await scene.reconcile()

        (request,) = scene.keeper.of("recover")
        assert [each["agent_id"] for each in request["agents"]] == [gone.id, keeping.id]
        assert all(each["pid"] > PID_MAX_LIMIT for each in request["agents"])
        assert scene.book.kept == []

    run(tmp_path, test)


def test_after_a_start_of_the_host_nothing_is_sought(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1, "paused", paused_at=3.0, pause_mode="tree")
        scene.load(one)

        await scene.reconcile("host_lost")

        lost = scene.get(one)
        assert scene.keeper.of("recover") == []
        assert lost.outcome is not None
        assert (lost.state, lost.outcome.reason, lost.paused_at) == ("lost", "host_lost", None)

    run(tmp_path, test)


@pytest.mark.parametrize("has_eof", [True, False], ids=["with its output", "before its output"])
def test_end_told_while_the_list_still_comes_is_not_undone(tmp_path: Path, has_eof: bool) -> None:
    async def test(scene: Scene) -> None:
        one, two = agent(1), agent(2)
        scene.load(one, two)
        scene.keeper.pages = [[status(one)], [status(two)]]

        def end(page: int) -> None:
            if page == 1:
                scene.keeper.tell("exited", status(one, "exited", exit_code=3, eof=has_eof))

        scene.keeper.before_page = end
        await scene.reconcile()

        found = scene.get(one)
        assert found.outcome is not None
        assert (found.state, found.outcome.exit_code, found.eof) == ("failed", 3, has_eof)
        assert scene.get(two).state == "running"

    run(tmp_path, test)


def test_end_of_the_output_told_while_the_list_still_comes_is_not_undone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1, "failed", eof=False)
        scene.load(one)
        scene.keeper.pages = [[status(one, "exited", eof=False)], []]
        scene.keeper.before_page = lambda page: (
            scene.keeper.tell("eof", status(one, "exited")) if page == 1 else None
        )

        await scene.reconcile()

        assert scene.get(one).eof
        assert len(scene.keeper.of("forget")) == 1

    run(tmp_path, test)


def test_agent_started_while_the_list_comes_is_neither_lost_nor_unknown(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        started: list[Agent] = []

        def start(page: int) -> None:
            if page == 0:
                started.append(scene.fleet.starts.reserve(AgentSpec(command=["true"]), "uid:0"))
                scene.keeper.pages[1].append(status(agent(1), agent_id=started[0].id))

        scene.keeper.pages = [[], []]
        scene.keeper.before_page = start

        unknown = await scene.reconcile()
        await scene.fleet.starts.start(started[0])

        assert unknown == []
        assert scene.get(started[0]).state == "running"
        assert scene.get(started[0]).pid == 999

    run(tmp_path, test)


def test_agents_the_registry_does_not_know_are_told_or_forgotten(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.keeper.pages = [[status(agent(1)), status(agent(2), "exited")]]

        unknown = await scene.reconcile()

        assert unknown == [agent(1).id]
        assert [each["agent_id"] for each in scene.keeper.of("forget")] == [agent(2).id]
        assert len(scene.book.roster) == 0

    run(tmp_path, test)


def test_another_attempt_than_the_recorded_one_does_not_count(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1, attempt=2)
        scene.load(one)
        scene.keeper.pages = [[status(one, "exited")]]

        await scene.reconcile()

        assert scene.get(one).state == "lost"

    run(tmp_path, test)


def test_ended_agent_the_keeper_has_forgotten_has_no_more_output(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1, "completed", eof=False)
        scene.load(one)

        await scene.reconcile()

        assert scene.get(one).eof
        assert scene.keeper.of("recover") == []

    run(tmp_path, test)


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_end_is_recorded_only_when_the_keeper_works_on_it(tmp_path: Path, verb: str) -> None:
    async def test(scene: Scene) -> None:
        one = agent(1)
        scene.load(one)
        recorded: list[State | None] = []

        def note(op: str, agent_id: str) -> None:
            stored = scene.stored(agent_id)
            if op == verb:
                recorded.append(stored and stored.state)

        scene.keeper.before_reply = note
        arguments = (None, None) if verb == "stop" else ()
        changed = asyncio.Event()
        with scene.book.notifying(scene.get(one), changed):
            asked = asyncio.ensure_future(getattr(scene.fleet, verb)(scene.get(one), *arguments))
            await changed.wait()
        await scene.registry.durable()
        stored = scene.stored(one.id)
        recorded.append(stored and stored.state)
        scene.keeper.tell("exited", status(one, "exited", exit_code=0, ended_by=verb))
        await asked

        assert recorded == ["running", "stopping"]
        assert scene.get(one).state == "terminated"

    run(tmp_path, test)


def test_end_that_is_known_is_not_lost_with_the_keeper(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        noting: list[Callable[[], None]] = []
        told: list[protocol.Status] = []

        def put_off(_agent: Agent, status: protocol.Status, apply: Callable[[], None]) -> None:
            told.append(status)
            noting.append(apply)

        scene.facts.hear_out = put_off
        one = agent(1)
        scene.load(one)
        scene.facts.on_keeper_event("exited", status(one, "exited", eof=False))
        (tmp_path / OutputFiles.file_name(one.id, "stdout")).write_bytes(b"the last words")
        await scene.reconcile()
        assert scene.get(one).state == "running"
        assert (told[-1]["eof"], told[-1]["totals"]["stdout"]) == (True, 14)

        noting[-1]()
        found = scene.get(one)
        assert (found.state, found.eof, found.output.stdout.total) == ("completed", True, 14)
        assert found.outcome is not None
        assert found.outcome.reason == "exit"

    run(tmp_path, test)
