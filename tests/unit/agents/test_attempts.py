"""Further attempts of an agent, with a keeper that says what a test tells it to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from descartesd.agents.record import Agent
from descartesd.errors import AbortedError, ConflictError, InvalidArgumentError, NotFoundError
from tests.support.scriptedkeeper import record, status
from tests.unit.agents.test_list_beside_requests import Scene, run


def ended(number: int = 1, **fields: object) -> Agent:
    return record(number, "completed", **{"eof": True, **fields})


async def respawn(scene: Scene, agent: Agent) -> None:
    await scene.fleet.renew(agent, lambda: None)
    await scene.fleet.starts.start(agent)


def test_attempt_begun_while_the_list_comes_is_not_lost(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = ended()
        scene.load(one)
        scene.keeper.pages = [[], []]
        asked: list[asyncio.Task[None]] = []
        scene.keeper.before_page = lambda page: (
            asked.append(group.create_task(respawn(scene, one))) if page == 0 else None
        )

        async with asyncio.TaskGroup() as group:
            await scene.reconcile()
        await asked[0]

        assert (scene.state(one), one.attempt, one.pid) == ("running", 2, 999)

    run(tmp_path, test)


def test_who_waits_is_told_the_end_there_was_whatever_has_come_since(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = record(1)
        scene.load(one)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(scene.fleet.ended(one))
            await asyncio.sleep(0)
            # All of this before whoever waits can run.
            scene.facts.on_keeper_event("exited", status(one, "exited", exit_code=3))
            one.attempt += 1
            scene.book.set_state(one, "queued")
            scene.book.set_state(one, "starting")

        end = waiting.result()
        assert end.outcome is not None
        assert (end.state, end.attempt, end.outcome.exit_code) == ("failed", 1, 3)

    run(tmp_path, test)


def test_attempt_the_keeper_refuses_has_failed_and_the_agent_stays(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = ended()
        scene.load(one)
        scene.keeper.refusals["spawn"] = ("invalid_argument", "no program 'x'")

        with pytest.raises(InvalidArgumentError, match="no program 'x'"):
            await respawn(scene, one)

        assert one.outcome is not None
        assert (one.state, one.attempt, one.outcome.reason) == ("failed", 2, "spawn_error")
        assert scene.book.roster.get(one.id) is one
        await scene.registry.durable()
        assert [found.state for found in scene.registry.agents()] == ["failed"]

    run(tmp_path, test)


@pytest.mark.parametrize("has_started", [True, False], ids=["started", "not started"])
def test_attempt_whose_answer_was_lost_is_decided_by_the_next_list(
    tmp_path: Path, has_started: bool
) -> None:
    async def test(scene: Scene) -> None:
        def hang_up(op: str, _agent_id: str) -> None:
            if op == "spawn":
                raise ConnectionError

        one = ended()
        scene.load(one)
        scene.keeper.before_reply = hang_up
        asking = asyncio.ensure_future(respawn(scene, one))
        async with asyncio.timeout(1):
            await scene.lost.wait()
        await scene.link.connect(scene.path)
        scene.keeper.pages = [[status(one, attempt=2, pid=77)] if has_started else []]
        await scene.reconcile()

        if has_started:
            await asking
            assert (one.state, one.pid) == ("running", 77)
        else:
            with pytest.raises(AbortedError):
                await asking
            assert one.outcome is not None
            assert (one.state, one.outcome.reason) == ("failed", "spawn_error")

    run(tmp_path, test)


def test_removed_meanwhile_it_is_not_started(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = ended(eof=False)
        scene.load(one)
        asking = asyncio.ensure_future(respawn(scene, one))
        await asyncio.sleep(0)
        await scene.fleet.remove(one)

        with pytest.raises(NotFoundError, match="has been removed"):
            await asking
        assert scene.keeper.of("spawn") == []

    run(tmp_path, test)


def test_removal_and_respawn_exclude_each_other(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = ended()
        scene.load(one)
        removing = asyncio.ensure_future(scene.fleet.remove(one))
        await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="is being removed"):
            await respawn(scene, one)
        await removing

    run(tmp_path, test)


def test_keeper_may_forget_an_end_once_it_is_durable_even_if_that_takes_a_while(
    tmp_path: Path,
) -> None:
    async def test(scene: Scene) -> None:
        one = record(1)
        scene.load(one)
        (pages,) = scene.registry._db.execute("PRAGMA page_count").fetchone()
        scene.registry._db.execute(f"PRAGMA max_page_count = {pages}")
        scene.book.journal.record("error", message="x" * 100_000)
        with scene.book.notifying(one, changed := asyncio.Event()):
            scene.keeper.tell("exited", status(one, "exited"))
            scene.keeper.tell("eof", status(one, "exited"))
            await changed.wait()
        await scene.link.request("hello")
        assert scene.state(one) == "completed"
        assert scene.keeper.of("forget") == []

        scene.registry._db.execute("PRAGMA max_page_count = 1000000")
        assert scene.registry.save()
        await scene.link.request("hello")

        assert len(scene.keeper.of("forget")) == 1

    run(tmp_path, test)
