"""More agents than there are slots: they wait in their order, and every one has its turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.wire.agent import AgentInfo
from tests.support.agents import SLEEP, all_agents, left_empty, sh, spec, until_state
from tests.support.eventually import eventually
from tests.support.follower import Follower, lives
from tests.support.server import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running({"server.max_agents": 2, "limits.max_queued": 4}) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client(wait_for_server_s=20) as made, left_empty(made):
        yield made


def fill(client: Client, *names: str, **fields: object) -> list[AgentInfo]:
    return [client.agent.spawn(spec=spec(*SLEEP, name=name, **fields)) for name in names]


def positions(client: Client) -> dict[str, int]:
    """Those who wait, by name, in the order of their positions."""
    waiting = [each for each in all_agents(client) if each.queue_position is not None]
    waiting.sort(key=lambda each: each.queue_position or 0)
    return {each.name: each.queue_position or 0 for each in waiting}


def test_three_hundred_against_fifty_slots_all_complete_in_order() -> None:
    with running({"server.max_agents": 50}) as server, server.client() as client:
        with Follower(str(server.admin)) as follower:
            specs = [
                spec("true", name=f"n{number:03d}", priority=5 if number >= 290 else 0)
                for number in range(300)
            ]
            done = client.batch.spawn(specs=specs)
            assert (done.succeeded, done.failed) == (300, 0)
            ended = [client.agent.wait(id=each.name or "", deadline_s=30) for each in specs]
            last = client.server.hello().last_event
            seen = follower.until(last)

        assert {each.state for each in ended} == {"completed"}
        alive: set[str] = set()
        most = 0
        order = []
        for event in seen:
            if event.agent_id is None or event.state is None:
                continue
            if event.state in ("starting", "running", "stopping"):
                if event.agent_id not in alive:
                    order.append(event.name or "")
                alive.add(event.agent_id)
            else:
                alive.discard(event.agent_id)
            most = max(most, len(alive))
        assert most == 50
        names = [each.name for each in specs]
        urgent = names[290:]
        assert order[:50] == names[:50]
        waited = order[50:]
        # Starts of the same moment are told in the order the keeper answers in.
        assert [waited.index(name or "") < 60 for name in urgent] == [True] * 10
        rest = [name for name in waited if name not in urgent]
        assert max(abs(rest.index(name or "") - at) for at, name in enumerate(names[50:290])) < 50


def test_who_waits_is_queued_and_the_next_one_starts_when_a_slot_is_free(client: Client) -> None:
    one, two, three, four = fill(client, "one", "two", "three", "four")

    assert (one.state, two.state, three.state, four.state) == ("running",) * 2 + ("queued",) * 2
    assert [each.queue_position for each in (one, two, three, four)] == [None, None, 1, 2]
    assert three.pid is None
    assert three.started_at is None
    client.agent.kill(id="one")
    until_state(client, "three", "running")
    assert positions(client) == {"four": 1}
    assert client.agent.get(id="four").queue_position == 1
    assert client.server.health().agents["queued"] == 1
    client.agent.kill(id="three")
    client.agent.kill(id="two")
    assert until_state(client, "four", "running").queue_position is None


def test_a_higher_priority_goes_first(client: Client) -> None:
    fill(client, "one", "two", "low", priority=-1)
    fill(client, "first", "second")
    fill(client, "urgent", priority=10)

    assert positions(client) == {"urgent": 1, "first": 2, "second": 3, "low": 4}
    client.agent.kill(id="one")
    until_state(client, "urgent", "running")
    assert positions(client) == {"first": 1, "second": 2, "low": 3}


def test_a_full_queue_refuses_and_names_its_limits(client: Client) -> None:
    fill(client, *"abcdef")

    with pytest.raises(ResourceExhaustedError, match=r"max_agents is 2.*max_queued is 4") as told:
        fill(client, "g")
    assert told.value.retryable
    assert len(all_agents(client)) == 6
    # The place of one that goes is free again, and so is the name of who was refused.
    client.agent.stop(id="f")
    assert fill(client, "g")[0].queue_position == 4


def test_who_waits_can_be_cancelled_and_only_that(client: Client) -> None:
    fill(client, *"abcde")

    for verb in ("pause", "resume", "respawn", "remove"):
        with pytest.raises(ConflictError, match="queued"):
            getattr(client.agent, verb)(id="c")
    stopped, killed = client.agent.stop(id="c"), client.agent.kill(id="d")
    assert {stopped.state, killed.state} == {"terminated"}
    assert stopped.outcome is not None
    assert killed.outcome is not None
    assert {stopped.outcome.reason, killed.outcome.reason} == {"cancelled"}
    assert stopped.pid is None
    assert stopped.started_at is None
    assert client.agent.kill(id="c") == stopped
    assert positions(client) == {"e": 1}
    client.agent.remove(id="c")
    # What was cancelled can be started after all.
    assert client.agent.respawn(id="d").state == "queued"
    assert positions(client) == {"e": 1, "d": 2}
    client.agent.kill(id="a")
    client.agent.kill(id="b")
    assert until_state(client, "d", "running").attempt == 2


def test_a_queued_start_that_fails_is_failed_and_told(server: Server, client: Client) -> None:
    fill(client, "a", "b")
    with pytest.raises(InvalidArgumentError):
        client.agent.spawn(spec=spec("relative/../", cwd="/", env={"DESCARTES_AGENT_ID": "x"}))
    client.agent.spawn(spec=spec("/no/such/program", name="broken"))
    client.agent.spawn(spec=spec("true", name="after"))
    client.agent.kill(id="a")

    broken = client.agent.wait(id="broken", deadline_s=5)
    assert (broken.state, broken.attempt) == ("failed", 1)
    assert broken.outcome is not None
    assert broken.outcome.reason == "spawn_error"
    assert client.agent.wait(id="after", deadline_s=5).state == "completed"
    with Follower(str(server.admin)) as follower:
        seen = follower.until(client.server.hello().last_event)
    [told] = [event for event in seen if event.agent_id == broken.id and event.kind == "error"]
    assert "/no/such/program" in (told.message or "")
    assert told.outcome is not None
    assert told.outcome.reason == "spawn_error"


def test_replace_of_a_queued_agent_takes_its_name(client: Client) -> None:
    fill(client, "a", "b", "c")
    new = client.agent.spawn(spec=spec("true", name="c"), replace=True)

    assert (new.state, new.queue_position) == ("queued", 1)
    client.agent.kill(id="a")
    assert client.agent.wait(id="c", deadline_s=5).id == new.id


def test_replace_on_a_full_server_takes_the_place_that_becomes_free(client: Client) -> None:
    fill(client, *"abcdef")
    new = client.agent.spawn(spec=spec(*SLEEP, name="a"), replace=True)

    assert new.state == "queued"
    until_state(client, "c", "running")
    assert positions(client) == {"d": 1, "e": 2, "f": 3, "a": 4}


def test_replace_leaves_who_has_the_name_where_nobody_may_start(client: Client) -> None:
    client.agent.wait(id=client.agent.spawn(spec=spec("true", name="over")).id)
    holder = fill(client, *"abcdef")[0]
    with pytest.raises(ResourceExhaustedError):
        client.agent.spawn(spec=spec("true", name="over"), replace=True)
    assert client.agent.get(id="over").state == "completed"

    client.server.drain()
    try:
        with pytest.raises(UnavailableError):
            client.agent.spawn(spec=spec("true", name="a"), replace=True)
    finally:
        client.server.drain(undo=True)
    assert client.agent.get(id="a").id == holder.id
    assert client.agent.get(id="a").state == "running"


def test_who_waits_goes_on_waiting_over_a_crash_in_order_and_under_its_key(
    server: Server, client: Client
) -> None:
    with Follower(str(server.admin)) as follower:
        fill(client, "a", "b")
        key = "queued-once"
        waiting = client.agent.spawn(spec=spec("true", name="c"), idem=key)
        fill(client, "d")
        fill(client, "urgent", priority=1)
        server.crash_and_restart()

        assert positions(client) == {"urgent": 1, "c": 2, "d": 3}
        again = client.agent.spawn(spec=spec("true", name="c"), idem=key)
        assert (again.id, again.state) == (waiting.id, "queued")
        client.agent.kill(id="a")
        until_state(client, "urgent", "running")
        client.agent.kill(id="b")
        assert client.agent.wait(id="c", deadline_s=5).state == "completed"
        until_state(client, "d", "running")
        seen = follower.until(client.server.hello().last_event)
    found = lives(seen)
    assert found[waiting.id] == [["queued", "starting", "running", "completed"]]


def test_starts_go_on_over_crashes_and_each_agent_runs_once(
    server: Server, client: Client, tmp_path: Path
) -> None:
    marks = tmp_path
    specs = [sh(f"echo x >> {marks}/n{n}; sleep 0.05", name=f"n{n}") for n in range(6)]
    client.batch.spawn(specs=specs)
    for _ in range(2):
        server.crash_and_restart()

    for each in specs:
        assert client.agent.wait(id=each.name or "", deadline_s=10).state == "completed"
    assert [(marks / f"n{n}").read_text() for n in range(6)] == ["x\n"] * 6


def test_who_waits_is_there_after_an_orderly_stop(server: Server, client: Client) -> None:
    fill(client, "a", "b", "c", "d")
    assert server.stop() == 0
    server.start()

    assert client.agent.get(id="a").state == "terminated"
    until_state(client, "c", "running")
    until_state(client, "d", "running")


def test_drain_lets_nobody_start_until_it_is_undone(client: Client) -> None:
    fill(client, "a", "b", "c")
    drained = client.server.drain()
    assert (drained.draining, drained.alive, drained.queued) == (True, 2, 1)
    client.agent.kill(id="a")
    client.agent.kill(id="b")

    assert client.agent.get(id="c").queue_position == 1
    client.server.drain(undo=True)
    until_state(client, "c", "running")


def test_respawn_on_a_full_server_waits_as_well(client: Client) -> None:
    client.agent.wait(id=client.agent.spawn(spec=spec("true", name="again")).id)
    fill(client, "a", "b")

    agent = client.agent.respawn(id="again")
    assert (agent.state, agent.attempt, agent.queue_position) == ("queued", 2, 1)
    assert agent.outcome is None
    assert agent.ended_at is None
    client.agent.kill(id="a")
    assert client.agent.wait(id="again", deadline_s=5).state == "completed"


def test_a_batch_that_fails_fast_leaves_nobody_waiting(client: Client) -> None:
    specs = [spec(*SLEEP, name="a"), spec(*SLEEP, name="b"), spec(*SLEEP, name="b")]
    done = client.batch.spawn(specs=[*specs, spec("true", name="c")], fail_fast=True)

    assert [each.ok for each in done.results] == [True, True, False, False]
    assert {each.name for each in all_agents(client)} == {"a", "b"}


def test_list_by_state_has_those_who_wait(client: Client) -> None:
    fill(client, *"abcd")

    page = client.agent.list(states=["queued"])
    assert [(each.name, each.queue_position) for each in page.agents] == [("c", 1), ("d", 2)]
    eventually(lambda: client.agent.list(states=["running"]).total == 2)
