"""Those who wait are started once, whatever is lost meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from descartesd.agents.fleet import Fleet
from descartesd.agents.record import Agent, from_row
from descartesd.agents.spec import RunnerDefaults
from descartesd.agents.starting import FleetOptions
from descartesd.errors import AbortedError, ConflictError, ResourceExhaustedError
from descartesd.wire.agent import AgentSpec, Outcome, Restart, State
from tests.support.scriptedkeeper import record, status
from tests.unit.agents.test_list_beside_requests import Scene
from tests.unit.agents.test_list_beside_requests import run as run_scene

ALWAYS = AgentSpec(command=["true"], restart=Restart(policy="always", delay_s=0, jitter=0))


@contextlib.asynccontextmanager
async def giving_turns(scene: Scene) -> AsyncIterator[None]:
    turns = asyncio.ensure_future(scene.fleet.turns.run())
    scene.fleet.turns.keeper_is_ready()
    try:
        yield
    finally:
        turns.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await turns


def run(directory: Path, test: Callable[[Scene], Awaitable[None]], *, slots: int = 1) -> None:
    async def inside(scene: Scene) -> None:
        options = FleetOptions(slots, RunnerDefaults(None, ("/bin",), 65_536))
        scene.fleet = Fleet(scene.book, scene.link, options)
        async with asyncio.timeout(5):
            await test(scene)

    run_scene(directory, inside)


async def comes_to(scene: Scene, agent: Agent, *states: State) -> None:
    await scene.book.until(agent, frozenset(states))


def waiting(number: int, state: State = "queued", **fields: object) -> Agent:
    """A record of one that waits; of one in backoff the first attempt has failed just now."""
    made = record(number, "starting", **fields)
    made.state = state
    if state == "backoff":
        made.spec = ALWAYS
        made.started_at, made.ended_at, made.next_start_at = 1.0, 2.0, 2.0
        made.outcome, made.eof, made.pid = Outcome(reason="exit", exit_code=1), True, 5
    return made


def started_ids(scene: Scene) -> list[str]:
    return [each["agent_id"] for each in scene.keeper.of("spawn")]


async def lose_keeper(scene: Scene) -> None:
    """Have another keeper, once the loss of the one there was is known."""
    await scene.lost.wait()
    scene.keeper.before_reply = lambda _op, _agent_id: None
    await scene.link.connect(scene.path)


def test_the_queue_of_a_former_life_goes_on_in_its_order(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one, two, three = waiting(1, turn=9), waiting(2, turn=7), waiting(3, turn=8)
        scene.load(one, two, three)
        await scene.reconcile()
        async with giving_turns(scene):
            for each in (two, three, one):
                await comes_to(scene, each, "running")
                assert scene.book.alive == 1
                scene.keeper.tell("exited", status(each, "exited"))
                await comes_to(scene, each, "completed")

        assert started_ids(scene) == [two.id, three.id, one.id]

    run(tmp_path, test)


def test_what_the_keeper_has_started_already_is_not_started_again(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        fresh, again = waiting(1), waiting(2, "backoff")
        again.begin_attempt()
        scene.load(fresh, again)
        scene.keeper.pages = [
            [status(fresh, pid=71), status(again, pid=72, attempt=2)],
        ]
        await scene.reconcile()
        async with giving_turns(scene):
            await asyncio.sleep(0.02)

        assert (fresh.state, fresh.pid) == ("running", 71)
        assert (again.state, again.pid, again.attempt) == ("running", 72, 2)
        assert again.next_start_at is None
        assert started_ids(scene) == []

    run(tmp_path, test, slots=5)


def test_what_has_run_already_is_not_started_again_before_its_end_is_noted(
    tmp_path: Path,
) -> None:
    async def test(scene: Scene) -> None:
        one = waiting(1)
        scene.load(one)
        noting: list[Callable[[], None]] = []
        scene.facts.hear_out = lambda _agent, _status, apply: noting.append(apply)
        scene.keeper.pages = [[status(one, "exited")]]
        await scene.reconcile()
        async with giving_turns(scene):
            await asyncio.sleep(0.02)
            assert started_ids(scene) == []
            noting[0]()

        assert one.state == "completed"

    run(tmp_path, test)


def asked_for(agent: Agent) -> Agent:
    """One that the keeper was about to be asked for when the daemon died."""
    if agent.state == "backoff":
        agent.begin_attempt()
    agent.asked_attempt = agent.attempt
    return agent


def test_start_in_doubt_is_not_repeated_when_the_keeper_died_too(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        doubtful, untouched = asked_for(waiting(1, turn=1)), waiting(2, turn=2)
        restarting, idle = asked_for(waiting(3, "backoff")), waiting(4, "backoff")
        idle.asked_attempt = 1
        scene.load(doubtful, untouched, restarting, idle)
        scene.registry.set_meta("keeper", "a dead one")
        await scene.reconcile()

        # What may be left of them is ended first.
        [recovered] = scene.keeper.of("recover")
        assert [each["agent_id"] for each in recovered["agents"]] == [doubtful.id, restarting.id]
        found = scene.book.roster.get(doubtful.id)
        assert found is not None
        assert found.outcome is not None
        assert (found.state, found.outcome.reason) == ("failed", "spawn_error")
        async with giving_turns(scene):
            for each in (untouched, restarting, idle):
                await comes_to(scene, each, "running")
        assert sorted(started_ids(scene)) == [untouched.id, restarting.id, idle.id]

    run(tmp_path, test, slots=5)


def test_start_in_doubt_waits_on_where_the_keeper_knows_nothing_of_it(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = asked_for(waiting(1))
        scene.load(one)
        scene.registry.set_meta("keeper", scene.link.identity or "")
        await scene.reconcile()
        assert scene.keeper.of("recover") == []
        # Should both die before it is asked for anew, there is no doubt.
        found = scene.book.roster.get(one.id)
        assert found is not None
        assert (found.state, found.is_in_doubt) == ("queued", False)
        async with giving_turns(scene):
            await comes_to(scene, one, "running")

    run(tmp_path, test)


def test_start_is_recorded_before_the_keeper_is_asked(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        recorded: list[bool] = []

        def look(op: str, agent_id: str) -> None:
            if op == "spawn":
                with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite")) as file:
                    query = "SELECT record FROM agents WHERE id = ?"
                    (row,) = file.execute(query, (agent_id,)).fetchone()
                recorded.append(from_row(row).is_in_doubt)

        scene.keeper.before_reply = look
        scene.load(waiting(1), waiting(2, "backoff"))
        async with giving_turns(scene):
            for each in list(scene.book.roster):
                await comes_to(scene, each, "running")

        assert recorded == [True, True]

    run(tmp_path, test, slots=2)


def test_start_cut_short_by_the_loss_of_the_keeper_has_failed(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        def hang_up(op: str, _agent_id: str) -> None:
            if op == "spawn":
                raise ConnectionError

        scene.keeper.before_reply = hang_up
        one, two = waiting(1, turn=1), waiting(2, turn=2)
        scene.load(one, two)
        await scene.reconcile()
        async with giving_turns(scene):
            await lose_keeper(scene)
            # Nobody knows yet, and its slot is not given to another.
            await asyncio.sleep(0.01)
            assert (one.state, two.state) == ("queued", "queued")
            await scene.reconcile()
            scene.fleet.turns.keeper_is_ready()
            await comes_to(scene, two, "running")

        assert one.outcome is not None
        assert (one.state, one.outcome.reason) == ("failed", "spawn_error")
        assert started_ids(scene) == [one.id, two.id]

    run(tmp_path, test)


def test_start_the_lost_keeper_was_not_asked_for_is_begun_anew(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        def hang_up(op: str, _agent_id: str) -> None:
            if op == "forget":
                raise ConnectionError

        scene.keeper.before_reply = hang_up
        one = waiting(1, "backoff")
        scene.load(one)
        async with giving_turns(scene):
            await lose_keeper(scene)
            await scene.reconcile()
            assert one.state == "backoff"
            scene.fleet.turns.keeper_is_ready()
            await comes_to(scene, one, "running")

        assert (one.attempt, one.restarts) == (2, 1)

    run(tmp_path, test)


def test_one_that_is_ended_while_it_is_about_to_start_is_not_started(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        ending: list[asyncio.Future[object]] = []

        def end(op: str, _agent_id: str) -> None:
            if op == "forget" and not ending:
                ending.append(asyncio.ensure_future(scene.fleet.kill(one)))

        scene.keeper.before_reply = end
        one = waiting(1, "backoff")
        scene.load(one)
        async with giving_turns(scene):
            await comes_to(scene, one, "terminated")
            await ending[0]

        assert started_ids(scene) == []
        # It had run before: only what never did is cancelled.
        assert one.outcome is not None
        assert (one.outcome.reason, one.outcome.exit_code) == ("killed", 1)

    run(tmp_path, test)


def test_one_that_is_ended_while_the_keeper_starts_it_is_ended_then(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        ending: list[asyncio.Future[object]] = []

        def answer(op: str, _agent_id: str) -> None:
            if op == "spawn":
                ending.append(asyncio.ensure_future(scene.fleet.kill(one)))
            if op == "kill":
                scene.keeper.tell("exited", status(one, "exited", ended_by="kill"))

        scene.keeper.before_reply = answer
        one = waiting(1)
        one.spec = ALWAYS
        scene.load(one)
        async with giving_turns(scene):
            await comes_to(scene, one, "terminated")
            await ending[0]

        assert one.outcome is not None
        assert one.outcome.reason == "killed"

    run(tmp_path, test)


def test_an_end_told_before_its_start_is_answered_counts(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        def end(op: str, _agent_id: str) -> None:
            if op == "spawn":
                scene.keeper.tell("exited", status(one, "exited", exit_code=3))

        scene.keeper.before_reply = end
        one = waiting(1)
        scene.load(one)
        async with giving_turns(scene):
            await comes_to(scene, one, "failed")
            await scene.link.request("hello")

        assert one.outcome is not None
        assert (one.state, one.outcome.exit_code) == ("failed", 3)
        assert not scene.book.queue.taken

    run(tmp_path, test)


def test_nobody_is_started_while_nothing_can_be_recorded(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one = waiting(1)
        scene.load(one)
        (pages,) = scene.registry._db.execute("PRAGMA page_count").fetchone()
        scene.registry._db.execute(f"PRAGMA max_page_count = {pages}")
        scene.book.journal.record("error", message="x" * 100_000)
        assert not scene.registry.save()
        async with giving_turns(scene):
            await asyncio.sleep(0.02)
            assert (one.state, started_ids(scene)) == ("queued", [])
            scene.registry._db.execute("PRAGMA max_page_count = 1000000")
            assert scene.registry.save()
            await comes_to(scene, one, "running")

    run(tmp_path, test)


def test_a_start_that_is_refused_fails_and_the_next_one_has_its_turn(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        one, two = waiting(1, turn=1), waiting(2, turn=2)
        scene.load(one, two)
        scene.keeper.refusals["spawn"] = ("resource_exhausted", "too many open files")
        async with giving_turns(scene):
            await comes_to(scene, one, "failed")
            scene.keeper.refusals.clear()
            await comes_to(scene, two, "running", "failed")

        assert one.outcome is not None
        assert one.outcome.reason == "spawn_error"

    run(tmp_path, test)


@pytest.mark.parametrize("left_s", [10_000.0, -10_000.0], ids=["set back", "set forward"])
def test_a_clock_that_was_set_keeps_nobody_waiting_for_long(tmp_path: Path, left_s: float) -> None:
    async def test(scene: Scene) -> None:
        one = waiting(1, "backoff")
        one.spec = AgentSpec(
            command=["true"], restart=Restart(policy="always", delay_s=0.01, max_delay_s=0.01)
        )
        one.next_start_at = scene.book.clock() + left_s
        scene.load(one)
        async with giving_turns(scene):
            await comes_to(scene, one, "running")

    run(tmp_path, test)


def test_the_end_before_a_restart_is_durable_before_the_keeper_forgets_it(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        kept: list[State] = []

        def look(op: str, _agent_id: str) -> None:
            if op == "forget":
                with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite")) as file:
                    rows = file.execute("SELECT record FROM agents").fetchall()
                kept.extend(from_row(row).state for (row,) in rows)

        scene.keeper.before_reply = look
        one = waiting(1, "backoff")
        scene.load(one)
        # As long after a transaction of many another one has to wait.
        scene.registry._not_before = asyncio.get_running_loop().time() + 0.05
        scene.book.put(one)
        async with giving_turns(scene):
            await comes_to(scene, one, "running")

        assert kept == ["backoff"]

    run(tmp_path, test)


def test_a_restart_cut_short_by_the_loss_of_the_keeper_is_begun_anew(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        def hang_up(op: str, _agent_id: str) -> None:
            if op == "spawn":
                raise ConnectionError

        scene.keeper.before_reply = hang_up
        one = waiting(1, "backoff")
        scene.load(one)
        async with giving_turns(scene):
            await lose_keeper(scene)
            await scene.reconcile()
            assert one.state == "backoff"
            assert len(scene.keeper.of("recover")) == 1
            scene.fleet.turns.keeper_is_ready()
            await comes_to(scene, one, "running")

        assert (one.attempt, one.restarts) == (2, 1)

    run(tmp_path, test)


def test_one_that_waits_while_the_server_ends_is_over_even_when_about_to_start(
    tmp_path: Path,
) -> None:
    async def test(scene: Scene) -> None:
        def end(op: str, _agent_id: str) -> None:
            if op == "forget":
                scene.fleet.end_waiting()

        scene.keeper.before_reply = end
        one = waiting(1, "backoff")
        scene.load(one)
        async with giving_turns(scene):
            await comes_to(scene, one, "terminated")
            await scene.link.request("hello")
            await scene.book.settled()

        assert (one.state, one.attempt, one.restarts) == ("terminated", 1, 0)
        assert one.outcome is not None
        assert started_ids(scene) == []
        assert scene.book.queue.taken == set()

    run(tmp_path, test)


@pytest.mark.parametrize("is_late", [False, True])
def test_one_ended_before_it_was_known_to_have_been_started_is_killed(
    tmp_path: Path, is_late: bool
) -> None:
    async def test(scene: Scene) -> None:
        def end(_page: int) -> None:
            ending.append(asyncio.ensure_future(scene.fleet.stop(one, None, None)))

        ending: list[asyncio.Future[object]] = []
        one = waiting(1)
        scene.load(one)
        if is_late:
            scene.keeper.before_page = end
        else:
            end(0)
            await ending[0]
        scene.keeper.pages = [[status(one)]]
        await scene.reconcile()
        await ending[0]
        await scene.link.request("hello")
        assert [each["agent_id"] for each in scene.keeper.of("kill")] == [one.id]

        scene.keeper.tell("exited", status(one, "exited", ended_by="kill"))
        await scene.link.request("hello")
        scene.book.put(one)
        scene.registry.save()
        await scene.link.request("hello")
        assert len(scene.keeper.of("forget")) >= 1
        assert one.state == "terminated"

    run(tmp_path, test)


def test_secrets_of_a_start_that_left_nothing_are_not_kept(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        def hang_up(op: str, _agent_id: str) -> None:
            if op == "spawn":
                raise ConnectionError

        scene.keeper.before_reply = hang_up
        wanted = AgentSpec(command=["true"], secret_env=["TOKEN"])
        one = scene.fleet.starts.reserve(wanted, "uid:0", {"TOKEN": "x"})
        starting = asyncio.ensure_future(scene.fleet.starts.start(one))
        await lose_keeper(scene)
        await scene.reconcile()

        with pytest.raises(AbortedError):
            await starting
        with pytest.raises(ConflictError):
            scene.fleet.starts.secrets.of(one)

    run(tmp_path, test)


def test_who_was_given_a_slot_takes_no_place_in_the_queue(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        options = FleetOptions(1, RunnerDefaults(None, ("/bin",), 65_536), max_queued=1)
        scene.fleet = Fleet(scene.book, scene.link, options)
        one, two = waiting(1, turn=1), waiting(2)
        scene.load(one)
        with pytest.raises(ResourceExhaustedError):
            scene.fleet.starts.reserve(two.spec, "uid:0")
        scene.book.queue.take()
        assert scene.fleet.starts.reserve(two.spec, "uid:0").state == "queued"

    run(tmp_path, test)
