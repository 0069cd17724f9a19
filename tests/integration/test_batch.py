"""Batches over CURVE, with real agents, and what a crash in the middle leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from descartesd.client import Client
from descartesd.errors import (
    AbortedError,
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from descartesd.wire.agent import AgentSpec, StopSpec
from descartesd.wire.batch import BatchResult, BatchSpawn, Selector
from descartesd.wire.methods import BATCH_SPAWN
from tests.support.agents import (
    SLEEP,
    all_agents,
    carrying,
    left_empty,
    python,
    sh,
    spec,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.server import Server, gone

MANY = 300


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def codes(result: BatchResult) -> list[str | None]:
    return [item.error.code if item.error else None for item in result.results]


def crowd(count: int, **fields: object) -> list[AgentSpec]:
    return [spec(*SLEEP, **fields) for _ in range(count)]


def test_a_batch_starts_what_it_can_and_tells_the_rest_apart(client: Client) -> None:
    specs = [
        spec(*SLEEP, name="web", labels={"app": "web"}),
        spec("/no/such/program"),
        spec(*SLEEP, name="web"),
        spec(*SLEEP, cwd="not/absolute"),
        spec(*SLEEP),
    ]

    result = client.batch.spawn(specs=specs)

    assert codes(result) == [None, "invalid_argument", "already_exists", "invalid_argument", None]
    assert (result.succeeded, result.failed) == (2, 3)
    assert [item.id for item in result.results[1:4]] == ["specs[1]", "web", "specs[3]"]
    started = [item.agent for item in result.results if item.agent]
    assert [agent.state for agent in started] == ["running", "running"]
    assert [agent.id for agent in all_agents(client)] == [agent.id for agent in started]
    assert result.results[0].id == started[0].id


def test_agents_of_a_batch_can_be_stopped_and_replaced_before_they_run(
    shared_server: Server, client: Client
) -> None:
    specs = [spec(*SLEEP, name=f"crowd-{number}") for number in range(MANY)]
    with ThreadPoolExecutor() as pool, shared_server.client() as other:
        spawning = pool.submit(client.batch.spawn, specs=specs)
        eventually(lambda: other.agent.list(limit=1).total == MANY)
        stopped = pool.submit(other.agent.stop, id=f"crowd-{MANY - 1}")
        second = other.agent.spawn(spec=spec(*SLEEP, name=f"crowd-{MANY - 2}"), replace=True)

        assert stopped.result().state == "terminated"
        assert second.state == "running"
        assert spawning.result().succeeded == MANY
    assert client.agent.get(id=f"crowd-{MANY - 1}").state == "terminated"
    assert client.agent.get(id=f"crowd-{MANY - 2}").id == second.id


def test_specs_of_the_wrong_type_are_refused_whole(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="specs: expected"):
        client.batch.spawn(specs=[])
    with pytest.raises(InvalidArgumentError, match=r"specs\[1\]\.name: expected"):
        client.batch.spawn(specs=[spec(*SLEEP), spec(*SLEEP, name="No Name")])
    assert all_agents(client) == []


def test_fail_fast_starts_nothing_after_the_first_failure(client: Client) -> None:
    specs = [spec(*SLEEP, name="one"), spec("/no/such"), spec(*SLEEP, name="three")]

    result = client.batch.spawn(specs=specs, fail_fast=True)

    assert codes(result) == [None, "invalid_argument", "aborted"]
    assert result.results[2].id == "three"
    assert [agent.name for agent in all_agents(client)] == ["one"]
    assert client.agent.spawn(spec=spec(*SLEEP, name="three")).state == "running"


def test_agents_over_the_limits_are_refused_each(server: Server) -> None:
    server.stop()
    server.environ["DESCARTES_SERVER__MAX_AGENTS"] = "2"
    server.environ["DESCARTES_LIMITS__MAX_QUEUED"] = "1"
    server.start()
    with server.client() as client:
        result = client.batch.spawn(specs=crowd(5))

        assert codes(result) == [None] * 3 + ["resource_exhausted"] * 2
        assert len(all_agents(client)) == 3


def test_verbs_are_done_to_all_and_each_answers_for_itself(client: Client) -> None:
    started = client.batch.spawn(specs=crowd(100, labels={"app": "web"}))
    ended = client.agent.spawn(spec=sh("exit 3", name="ended"))
    client.agent.wait(id=ended.id)
    ids = [item.id for item in started.results]

    paused = client.batch.run(verb="pause", ids=[*ids, "ended", "nobody", ids[0]])
    assert codes(paused) == [None] * 100 + ["conflict", "not_found", None]
    assert (paused.succeeded, paused.failed) == (101, 2)
    assert {item.agent.state for item in paused.results if item.agent} == {"paused"}

    resumed = client.batch.run(verb="resume", select=Selector(labels=["app in (web)"]))
    assert [item.id for item in resumed.results] == ids
    assert {item.agent.state for item in resumed.results if item.agent} == {"running"}

    stopped = client.batch.run(verb="stop", select=Selector(labels={"app": "web"}))
    assert {item.agent.state for item in stopped.results if item.agent} == {"terminated"}
    shown = client.batch.run(verb="get", select=Selector(states=["terminated", "failed"]))
    assert len(shown.results) == 101

    again = client.batch.run(verb="respawn", ids=["ended"])
    assert again.results[0].agent is not None
    assert again.results[0].agent.attempt == 2
    client.agent.wait(id="ended")
    removed = client.batch.run(verb="remove", select=Selector(all=True))
    assert (removed.succeeded, removed.failed) == (101, 0)
    assert not any(item.agent for item in removed.results)
    assert all_agents(client) == []


def test_signal_takes_its_parameters_from_the_batch(client: Client) -> None:
    script = "trap 'echo heard' USR1; echo ready; while :; do sleep 0.05; done"
    for _ in range(3):
        until_output(client, client.agent.spawn(spec=sh(script)).id, b"ready")

    result = client.batch.run(verb="signal", select=Selector(all=True), params={"signal": "USR1"})

    assert result.succeeded == 3
    for agent in all_agents(client):
        until_output(client, agent.id, b"heard")
    wrong = client.batch.run(verb="signal", select=Selector(all=True), params={"signal": "NONE"})
    assert codes(wrong) == ["invalid_argument"] * 3


def test_a_listing_takes_the_same_conditions(client: Client) -> None:
    mine = client.server.hello().identity.id
    client.batch.spawn(specs=crowd(2, labels={"app": "web"}) + crowd(1, labels={"app": "db"}))

    assert client.agent.list(labels=["app!=db"]).total == 2
    assert client.agent.list(labels=["!app"]).total == 0
    assert client.agent.list(labels={"app": "db"}, owner=mine).total == 1
    assert client.agent.list(owner="uid:4294967294").total == 0
    with pytest.raises(InvalidArgumentError, match=r"labels\[0\]: 'app web' is no condition"):
        client.agent.list(labels=["app web"])


def test_an_observer_may_only_look_at_many(client: Client, shared_server: Server) -> None:
    client.batch.spawn(specs=crowd(2))
    with shared_server.client(shared_server.issue("watcher", "observer")) as watcher:
        assert watcher.batch.run(verb="get", select=Selector(all=True)).succeeded == 2
        with pytest.raises(PermissionDeniedError, match=r"agent\.kill needs the role operator"):
            watcher.batch.run(verb="kill", select=Selector(all=True))
        with pytest.raises(PermissionDeniedError, match=r"batch\.spawn needs the role operator"):
            watcher.batch.spawn(specs=crowd(1))


def stubborn(client: Client, grace_s: float) -> None:
    """Start three agents that do not end when they are told to."""
    deaf = python(
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        " os.write(1, b'ready'); time.sleep(300)",
        stop=StopSpec(grace_s=grace_s),
    )
    for item in client.batch.spawn(specs=[deaf] * 3).results:
        until_output(client, item.id, b"ready")


def test_work_goes_on_when_its_client_goes_away(client: Client, shared_server: Server) -> None:
    stubborn(client, grace_s=0.5)
    with shared_server.client() as going, pytest.raises(DeadlineExceededError):
        going.batch.run(verb="stop", select=Selector(all=True), deadline_s=0.1)

    eventually(lambda: {agent.state for agent in all_agents(client)} == {"terminated"})


def test_the_same_key_starts_nothing_twice_and_no_other_batch(client: Client) -> None:
    first = client.batch.spawn(specs=crowd(3), idem="a-key-of-mine")
    again = client.batch.spawn(specs=crowd(3), idem="a-key-of-mine")

    assert again == first
    assert len(all_agents(client)) == 3
    with pytest.raises(ConflictError):
        client.batch.spawn(specs=crowd(4), idem="a-key-of-mine")


def spawning(server: Server, key: str) -> BatchResult:
    """Start many with a client of its own, whatever happens to the server meanwhile."""
    with server.client(wait_for_server_s=20) as client:
        return client.call(BATCH_SPAWN, BatchSpawn(specs=crowd(MANY)), idem=key)


def test_after_a_crash_in_the_middle_the_key_tells_what_there_really_is() -> None:
    with Server({"server.max_agents": MANY}) as server, ThreadPoolExecutor(1) as pool:
        server.start()
        with server.client(wait_for_server_s=20) as client:
            answer = pool.submit(spawning, server, "one-batch")
            eventually(lambda: client.agent.list(states=["running"], limit=1).total >= 20)
            server.crash_and_restart()

            result = answer.result(30)

            there = {agent.id for agent in all_agents(client)}
            told = {item.id for item in result.results if item.ok}
            assert (len(result.results), told) == (MANY, there)
            assert 20 <= len(there) < MANY
            assert set(codes(result)) == {None, "aborted"}
            assert client.batch.spawn(specs=crowd(MANY), idem="one-batch") == result
            for agent in all_agents(client):
                assert len(carrying("DESCARTES_AGENT_ID", agent.id)) == 1


def test_a_batch_of_verbs_cut_short_by_a_crash_is_aborted_and_not_done_again() -> None:
    with Server() as server, ThreadPoolExecutor(1) as pool:
        server.start()
        with server.client(wait_for_server_s=20) as client:
            stubborn(client, grace_s=30)

            def stop() -> BatchResult:
                return client.batch.run(verb="stop", select=Selector(all=True), idem="one-stop")

            with server.client(wait_for_server_s=20) as other:
                answer = pool.submit(stop)
                eventually(lambda: other.agent.list(states=["stopping"]).total == 3)
                server.crash_and_restart()

                with pytest.raises(AbortedError, match=r"batch\.run was cut short"):
                    answer.result(20)
                assert other.agent.list(states=["stopping"]).total == 3
                assert other.batch.run(verb="kill", select=Selector(all=True)).succeeded == 3


def test_a_keeper_lost_in_the_middle_leaves_no_agent_that_is_not_told() -> None:
    with Server({"server.max_agents": MANY}) as server, ThreadPoolExecutor(1) as pool:
        server.start()
        with server.client() as client:
            answer = pool.submit(spawning, server, "one-batch")
            eventually(lambda: client.agent.list(states=["running"], limit=1).total >= 20)
            keeper = server.keeper_pid
            assert keeper is not None
            os.kill(keeper, signal.SIGKILL)
            gone(keeper)

            result = answer.result(30)

            eventually(lambda: client.server.health().status == "ok")
            known = {agent.id: agent.state for agent in all_agents(client)}
            assert {item.id for item in result.results if item.ok} <= known.keys()
            assert "starting" not in known.values()
            running = {agent_id for agent_id, state in known.items() if state == "running"}
            processes = psutil.Process(server.keeper_pid).children(recursive=True)
            assert {each.environ()["DESCARTES_AGENT_ID"] for each in processes} == running
