"""Ends asked for before an agent runs, and what the keeper may forget of an end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from descartesd.agents.record import Agent
from descartesd.errors import NotFoundError, UnavailableError
from descartesd.wire.agent import AgentInfo, AgentSpec
from tests.support.scriptedkeeper import record, status
from tests.unit.agents.test_list_beside_requests import Scene, run


def reserved(scene: Scene) -> Agent:
    return scene.fleet.starts.reserve(AgentSpec(command=["/bin/sleep", "1"], name="one"), "uid:0")


def fill(scene: Scene) -> None:
    """Let the registry take nothing more, as on a full disk, and know it."""
    (pages,) = scene.registry._db.execute("PRAGMA page_count").fetchone()
    scene.registry._db.execute(f"PRAGMA max_page_count = {pages}")
    scene.book.journal.record("error", message="x" * 100_000)
    assert not scene.registry.save()


def ending(scene: Scene, agent: Agent) -> asyncio.Task[AgentInfo]:
    """Kill an agent whose keeper ends it at once."""

    def end(op: str, _agent_id: str) -> None:
        if op == "kill":
            scene.keeper.tell("exited", status(agent, "exited", ended_by="kill"))

    scene.keeper.before_reply = end
    return asyncio.ensure_future(scene.fleet.kill(agent))


def test_agent_killed_before_its_start_is_cancelled_and_not_launched(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = reserved(scene)
        killing = ending(scene, one)
        await asyncio.sleep(0)
        await scene.fleet.starts.start(one)

        end = await killing
        assert end.outcome is not None
        assert (end.state, end.outcome.reason) == ("terminated", "cancelled")
        assert scene.keeper.of("spawn") == scene.keeper.of("kill") == []
        # Its name is free again as that of any ended agent.
        await scene.fleet.remove(one)
        assert reserved(scene).name == "one"

    run(tmp_path, test)


def test_agent_killed_while_it_is_launched_is_killed_once_it_runs(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = reserved(scene)
        killing: list[asyncio.Task[AgentInfo]] = []

        def kill(op: str, _agent_id: str) -> None:
            if op == "spawn":
                killing.append(ending(scene, one))

        scene.keeper.before_reply = kill
        await scene.fleet.starts.start(one)

        end = await killing[0]
        assert end.outcome is not None
        assert (end.state, end.outcome.reason) == ("terminated", "killed")
        assert len(scene.keeper.of("kill")) == 1

    run(tmp_path, test)


def test_agent_killed_whose_start_fails_is_told_as_gone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = reserved(scene)
        killing = asyncio.ensure_future(scene.fleet.kill(one))
        await asyncio.sleep(0)
        scene.fleet.starts.release(one)

        with pytest.raises(NotFoundError, match="could not be started"):
            await killing

    run(tmp_path, test)


def test_end_is_told_and_not_forgotten_while_it_cannot_be_recorded(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = record(1)
        scene.load(one)
        fill(scene)

        assert (await ending(scene, one)).state == "terminated"
        assert scene.keeper.of("forget") == []

        scene.registry._db.execute("PRAGMA max_page_count = 1000000")
        assert scene.registry.save()
        await scene.link.request("hello")
        assert len(scene.keeper.of("forget")) == 1

    run(tmp_path, test)


def test_nobody_is_paused_or_resumed_while_nothing_can_be_recorded(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        running, paused = record(1), record(2, "paused")
        scene.load(running, paused)
        fill(scene)

        with pytest.raises(UnavailableError):
            await scene.fleet.pause(running)
        with pytest.raises(UnavailableError):
            await scene.fleet.resume(paused)
        assert scene.keeper.of("pause") == scene.keeper.of("resume") == []

    run(tmp_path, test)


def test_start_that_recovery_has_given_up_can_be_given_up_again(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = record(1, "starting", attempt=2)
        scene.load(one)
        scene.facts.lose(one, "keeper_lost")
        scene.fleet.starts.release(one, "nothing can be recorded")

        assert one.outcome is not None
        assert (one.state, one.outcome.reason) == ("failed", "spawn_error")

    run(tmp_path, test)
