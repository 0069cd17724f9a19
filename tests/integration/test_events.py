"""Events as clients see them: every kind, from any number, over crashes and prunings."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest

from descartesd.client import Client
from descartesd.errors import AbortedError, InvalidArgumentError, UnavailableError
from descartesd.wire.event import Event
from tests.faults.peers import Peers
from tests.support.agents import SLEEP, left_empty, sh, spec, until_output
from tests.support.eventually import eventually
from tests.support.follower import Follower
from tests.support.server import Server, running

MANY = 10_000
ENDLESS = {"items": 1_000_000, "bytes": 1 << 30}


@pytest.fixture(scope="module")
def lively() -> Iterator[Server]:
    """A server whose regular events come every second."""
    with running({"server.status_update_interval_secs": 1}) as server:
        yield server


@pytest.fixture
def client(lively: Server) -> Iterator[Client]:
    with lively.client() as client, left_empty(client):
        yield client


def told(client: Client, since: int, last: Event | str) -> list[Event]:
    """Events behind `since` until one of this kind."""
    found = []
    with client.event.follow(since=since) as stream:
        for event in stream:
            found.append(event)
            if event.kind == last:
                break
    return found


def kinds(events: list[Event], agent_id: str) -> list[tuple[str, str | None, str | None]]:
    return [(e.kind, e.previous, e.state) for e in events if e.agent_id == agent_id]


def test_life_of_an_agent_is_told_step_by_step(client: Client) -> None:
    since = client.server.hello().last_event
    slow = "trap 'sleep 0.2; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    agent = client.agent.spawn(spec=sh(slow, name="steps"))
    until_output(client, agent.id, b"ready")
    client.agent.pause(id=agent.id)
    client.agent.resume(id=agent.id)
    client.agent.stop(id=agent.id)
    client.agent.remove(id=agent.id)

    events = told(client, since, "removed")

    assert [each for each in kinds(events, agent.id) if each[0] != "output_available"] == [
        ("status_changed", None, "starting"),
        ("status_changed", "starting", "running"),
        ("status_changed", "running", "paused"),
        ("status_changed", "paused", "running"),
        ("status_changed", "running", "stopping"),
        ("terminated", "stopping", "terminated"),
        ("removed", None, "terminated"),
    ]
    end = events[-2]
    assert (end.name, end.attempt) == ("steps", 1)
    assert end.outcome is not None
    assert end.outcome.reason == "stopped"
    assert [event.seq for event in events] == list(range(since + 1, since + 1 + len(events)))
    assert [event.time for event in events] == sorted(event.time for event in events)


def test_ends_are_told_by_how_they_came(client: Client) -> None:
    since = client.server.hello().last_event
    good = client.agent.spawn(spec=sh("exit 0"))
    client.agent.wait(id=good.id)
    bad = client.agent.spawn(spec=sh("exit 3"))
    client.agent.wait(id=bad.id)

    events = told(client, since, "error")

    assert kinds(events, good.id)[-1] == ("completed", "running", "completed")
    assert kinds(events, bad.id)[-1] == ("error", "running", "failed")
    assert events[-1].outcome is not None
    assert events[-1].outcome.exit_code == 3


def test_new_output_and_the_server_being_alive_are_told_to_who_follows(client: Client) -> None:
    with client.event.follow() as stream:
        agent = client.agent.spawn(spec=sh("while :; do echo 12345; sleep 0.1; done"))
        seen: list[Event] = []
        for event in stream:
            seen.append(event)
            if [e.kind for e in seen].count("output_available") == 2:
                break
        for event in stream:
            if event.kind == "heartbeat":
                break

    first, second = (e for e in seen if e.kind == "output_available")
    assert (first.agent_id, first.state) == (agent.id, "running")
    assert 0 < first.data["stdout"] < second.data["stdout"]
    assert first.data["stderr"] == 0
    # At most one a second about the same agent.
    assert second.time - first.time > 0.9
    assert event.data["agents"]["running"] == 1


def test_nothing_regular_is_told_while_nobody_follows(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("while :; do echo 12345; sleep 0.1; done"))
    before = client.server.hello().last_event

    eventually(lambda: client.agent.get(id=agent.id).output.stdout.total > 100, timeout=10)

    assert client.server.hello().last_event == before


def test_without_a_number_only_what_comes_is_told(client: Client) -> None:
    old = client.agent.spawn(spec=spec(*SLEEP))
    with client.event.follow() as stream:
        new = client.agent.spawn(spec=spec(*SLEEP))
        event = next(event for event in stream if event.agent_id is not None)

    assert old.id != event.agent_id == new.id


def test_number_that_has_not_been_reached_is_refused(client: Client) -> None:
    last = client.server.hello().last_event

    with (
        pytest.raises(InvalidArgumentError, match=f"the last one is {last}") as refusal,
        client.event.follow(since=last + 1000) as stream,
    ):
        next(stream)

    assert refusal.value.hint is not None
    assert "follow from 0" in refusal.value.hint


def test_start_and_stop_of_the_server_are_told() -> None:
    with running() as server:
        server.stop()
        server.start()
        with server.client() as client:
            first = told(client, 0, "server_started")
            both = told(client, first[-1].seq, "server_started")

    assert [event.kind for event in first] == ["server_started"]
    assert [event.kind for event in both] == ["server_stopping", "server_started"]
    assert first[0].data["version"]


def test_agents_of_a_killed_daemon_are_told_as_adopted(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP, name="survivor"))
        since = client.server.hello().last_event

    server.crash_and_restart()

    with server.client() as client:
        events = told(client, since, "server_started")
        assert kinds(events, agent.id) == [("adopted", None, "running")]
        assert events[0].name == "survivor"


def test_end_that_came_while_there_was_no_daemon_is_told_by_the_next(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec("/bin/cat", stdin="pipe"))
        since = client.server.hello().last_event
    assert agent.pid is not None
    server.kill()

    os.kill(agent.pid, signal.SIGTERM)
    server.start()

    with server.client() as client:
        assert kinds(told(client, since, "server_started"), agent.id) == [
            ("error", "running", "failed")
        ]


def test_what_is_no_longer_kept_is_told_as_a_gap(server: Server) -> None:
    with server.client() as client:
        for _ in range(5):
            client.agent.wait(id=client.agent.spawn(spec=sh(":")).id)
        last = client.server.hello().last_event
    server.kill()
    with contextlib.closing(sqlite3.connect(server.directory / "state/registry.sqlite")) as db:
        db.execute("DELETE FROM events WHERE seq < 8")
        db.commit()
    server.start()

    with server.client() as client:
        gap, *rest = told(client, 2, "server_started")

    assert (gap.kind, gap.seq, gap.data) == ("gap", 7, {"missed": 5})
    assert [event.seq for event in rest] == list(range(8, last + 2))


def test_who_replays_much_with_much_credit_gets_all_of_it(server: Server) -> None:
    server.stop()
    with contextlib.closing(sqlite3.connect(server.directory / "state/registry.sqlite")) as db:
        (last,) = db.execute("SELECT max(seq) FROM events").fetchone()
        rows = (
            (seq, msgpack.packb({"seq": seq, "time": 1.0, "kind": "heartbeat", "agent_id": None}))
            for seq in range(last + 1, last + MANY + 1)
        )
        db.executemany("INSERT INTO events VALUES (?, ?)", rows)
        db.commit()
    server.start()

    with Peers(server) as peers, server.client() as beside:
        followers = [peers.connect(timeout=10.0) for _ in range(3)]
        for peer in followers:
            for number in range(2):
                peer.send("event.follow", {"since": last}, id=number, credit=ENDLESS)
        # While everything is still to be read.
        took = sorted(seconds_of(beside.server.hello) for _ in range(200))
        for peer in followers:
            got: dict[int, list[int]] = {0: [], 1: []}
            while min(map(len, got.values())) < MANY:
                message = peer.receive()
                if "item" in message:
                    got[message["id"]].append(message["item"]["seq"])
                else:
                    assert message["stream"]
            for numbers in got.values():
                assert numbers == list(range(last + 1, last + 1 + len(numbers)))
        assert beside.server.stats().peers_shed == 0
    assert took[len(took) * 9 // 10] < 0.05


def seconds_of(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def test_every_event_is_seen_once_over_three_crashes_under_load(server: Server) -> None:
    def load() -> int:
        """Start agents and see their ends, until all is over; how many."""
        done = 0
        with server.client(wait_for_server_s=20) as client:
            while not is_over:
                with contextlib.suppress(AbortedError, UnavailableError):
                    agent = client.agent.spawn(spec=sh(":"))
                    client.agent.wait(id=agent.id)
                    done += 1
        return done

    is_over = False
    with (
        ThreadPoolExecutor(3) as pool,
        Follower(str(server.admin)) as follower,
    ):
        loads = [pool.submit(load) for _ in range(3)]
        try:
            for _ in range(3):
                seen = follower.last
                eventually(lambda seen=seen: follower.last > seen + 40, timeout=20)  # type: ignore[misc]
                server.crash_and_restart()
        finally:
            is_over = True
        done = sum(each.result() for each in loads)
        with server.client() as client:
            last = client.server.hello().last_event
        events = follower.until(last)

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert follower.connections == 4
    ends = [event.agent_id for event in events if event.kind == "completed"]
    assert len(ends) == len(set(ends)) >= done
