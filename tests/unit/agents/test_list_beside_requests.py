"""A keeper's list that is older than what has been done since, and words nobody understands."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.journal import Journal
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.output import OutputFiles
from descartesd.agents.record import Agent
from descartesd.agents.recovery import reconcile
from descartesd.agents.registry import Registry
from descartesd.agents.spec import RunnerDefaults
from descartesd.agents.starting import FleetOptions
from descartesd.errors import AbortedError, ResourceExhaustedError
from descartesd.keeper import protocol
from descartesd.wire.agent import AgentInfo, AgentSpec, State
from tests.support.scriptedkeeper import ScriptedKeeper, record, status


class Keeper(ScriptedKeeper):
    """One that can fall silent, and serves whoever came last."""

    is_silent = False

    def _accept(self) -> None:
        if self._peer is not None and self._peer.fileno() >= 0:
            self._loop.remove_reader(self._peer)
            self._peer.close()
        super()._accept()

    def _read(self) -> None:
        if self.is_silent and self._peer is not None:
            if protocol.receive(self._peer) is None:
                self._loop.remove_reader(self._peer)
            return
        try:
            super()._read()
        except ConnectionError:
            assert self._peer is not None
            self._loop.remove_reader(self._peer)
            self._peer.close()


class Scene:
    """A fleet connected to a scripted keeper."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "keeper.sock")
        self.lost = asyncio.Event()
        self.registry = Registry(str(directory / "registry.sqlite"))
        self.link = KeeperLink(on_lost=self.lost.set)
        self.book = Book(self.registry, Journal(self.registry), OutputFiles(str(directory)), "here")
        self.facts = Facts(self.book, self.link)
        runner = RunnerDefaults(None, ("/bin",), 65_536)
        self.fleet = Fleet(self.book, self.link, FleetOptions(100, runner))
        self.keeper = Keeper(self.path)

    def load(self, *agents: Agent) -> None:
        self.book.load(agents)

    def state(self, of: Agent) -> State:
        found = self.book.roster.get(of.id)
        assert found is not None
        return found.state

    async def reconcile(self) -> list[str]:
        return await reconcile(self.book, self.facts, self.link, "keeper_lost")

    def close(self) -> None:
        self.link.close()
        self.keeper.close()
        self.registry.close()


def run(directory: Path, test: Callable[[Scene], Awaitable[None]]) -> None:
    async def inside() -> None:
        scene = Scene(directory)
        try:
            await scene.link.connect(scene.path)
            await test(scene)
        finally:
            scene.close()

    asyncio.run(inside())


def test_stop_taken_on_while_the_list_comes_is_not_undone_by_it(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = record(1)
        scene.load(one)
        # The list was made before the stop came.
        scene.keeper.pages = [[status(one, "running")], []]
        asked: list[asyncio.Task[AgentInfo]] = []

        def stop(page: int) -> None:
            if page == 0:
                asked.append(group.create_task(scene.fleet.stop(one, None, None)))

        def end(op: str, _agent_id: str) -> None:
            if op == "stop":
                told = status(one, "exited", ended_by="stop", exit_code=0)
                loop.call_later(0.05, scene.keeper.tell, "exited", told)

        loop = asyncio.get_running_loop()
        scene.keeper.before_page = stop
        scene.keeper.before_reply = end
        async with asyncio.TaskGroup() as group:
            changed = asyncio.Event()
            with scene.book.notifying(one, changed):
                await scene.reconcile()
                await changed.wait()
                assert scene.state(one) == "stopping"

        assert scene.state(one) == "terminated"

    run(tmp_path, test)


def test_end_on_the_list_counts_whatever_was_done_since(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = record(1)
        scene.load(one)
        scene.keeper.pages = [[status(one, "exited", ended_by="stop", exit_code=0)], []]
        scene.keeper.before_page = lambda page: setattr(one, "state", "stopping") if page else None

        await scene.reconcile()

        assert scene.state(one) == "terminated"

    run(tmp_path, test)


def test_fact_nobody_understands_ends_the_connection_and_not_the_server(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = record(1)
        scene.load(one)
        told: dict[str, Any] = {**status(one, "exited")}
        del told["attempt"]

        scene.keeper.tell("exited", told)  # type: ignore[arg-type]
        async with asyncio.timeout(1):
            await scene.lost.wait()

        assert not scene.link.connected
        assert scene.state(one) == "running"

    run(tmp_path, test)


def test_message_that_needs_a_descriptor_when_there_is_none_fails_alone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            answer = scene.link.request("write", data=bytes(protocol.INLINE_MAX))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        with pytest.raises(ResourceExhaustedError):
            await answer
        assert scene.link.connected
        assert (await scene.link.request("hello"))["pid"] == 1

    run(tmp_path, test)


def test_keeper_that_says_nothing_is_told_from_one_that_does(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        assert await scene.link.answers(1)
        scene.keeper.is_silent = True
        assert not await scene.link.answers(0.02)

    run(tmp_path, test)


def test_greeting_that_fails_leaves_no_connection(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.link.close()
        scene.keeper.is_silent = True

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await scene.link.connect(scene.path)

        scene.keeper.is_silent = False
        await scene.link.connect(scene.path)
        assert await scene.link.answers(1)

    run(tmp_path, test)


@pytest.mark.parametrize("has_started", [True, False], ids=["started", "not started"])
def test_start_whose_answer_was_lost_is_decided_by_the_next_list(
    tmp_path: Path, has_started: bool
) -> None:
    async def test(scene: Scene) -> None:
        def hang_up(op: str, _agent_id: str) -> None:
            if op == "spawn":
                raise ConnectionError

        scene.keeper.before_reply = hang_up
        agent = scene.fleet.starts.reserve(AgentSpec(command=["true"], name="web"), "uid:0")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(started(scene, agent))
            async with asyncio.timeout(1):
                await scene.lost.wait()
            await scene.link.connect(scene.path)
            told = status(record(1), agent_id=agent.id, pid=77)
            scene.keeper.pages = [[told] if has_started else []]
            assert not starting.done()
            await scene.reconcile()

        assert starting.result() is has_started
        assert ("web" in scene.book.roster.names) is has_started
        assert agent.pid == (77 if has_started else None)

    run(tmp_path, test)


async def started(scene: Scene, agent: Agent) -> bool:
    try:
        await scene.fleet.starts.start(agent)
    except AbortedError:
        return False
    return True
