"""A state directory that takes nothing, or holds what cannot be read: reads are served."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import UnavailableError
from tests.support.agents import SLEEP, all_agents, spec, until_output
from tests.support.disk import fill, small_disk, unwritable
from tests.support.eventually import eventually
from tests.support.manager import Managed
from tests.support.server import BIN, alive

PATIENT_S = 20.0


@pytest.fixture
def server() -> Iterator[Managed]:
    """A server that has served, and has been killed, beside an agent that runs on."""
    with Managed() as made:
        made.start()
        with made.client() as client:
            agent = client.agent.spawn(spec=spec("sh", "-c", "echo said; exec sleep 300", name="a"))
            until_output(client, agent.id, b"said")
        made.kill()
        yield made


def lines(server: Managed, event: str) -> list[dict[str, object]]:
    """What was logged under this name."""
    found = (json.loads(line) for line in server.log_text().splitlines() if line.startswith("{"))
    return [line for line in found if line["event"] == event]


def kinds(client: Client) -> list[str]:
    """Kinds of what has happened, and the status it has led to."""
    with client.event.follow(since=0) as events:
        found = []
        for event in events:
            found.append(event.kind)
            if event.kind == "health_changed" and event.data["status"] == "ok":
                return found
    raise AssertionError(found)


def refused(client: Client) -> UnavailableError:
    """How a change is refused."""
    with pytest.raises(UnavailableError) as caught:
        client.agent.spawn(spec=spec(*SLEEP))
    assert caught.value.hint
    return caught.value


def takes_changes(client: Client) -> bool:
    """Whether something can be changed."""
    try:
        client.agent.signal(id="a", signal="CONT")
    except UnavailableError:
        return False
    return True


def test_fault_63_start_in_a_state_directory_that_cannot_be_written_serves_reads(
    server: Managed,
) -> None:
    state = server.directory / "state"
    with unwritable(state):
        server.start()
        with server.client() as client:
            health = client.server.health()
            assert health.status == "degraded"
            assert "cannot be written" in health.checks["registry"]
            assert "cannot be written" in health.checks["audit"]
            assert f"'{state}' cannot be written" in health.checks["directories"]
            eventually(lambda: "degraded: the registry cannot be" in server.hearing.status)
            agent = client.agent.get(id="a")
            assert (agent.state, alive(agent.pid or 0)) == ("running", True)
            assert client.agent.output(id="a", stream="stdout").data == b"said\n"
            assert "cannot be written" in refused(client).message
            with pytest.raises(UnavailableError):
                client.agent.kill(id="a")
            assert [agent.name for agent in all_agents(client)] == ["a"]
        (told,) = lines(server, "health.changed")
        assert told["status"] == "degraded"
    with server.client() as client:
        eventually(lambda: client.server.health().status == "ok", timeout=PATIENT_S)
        eventually(lambda: "degraded" not in server.hearing.status)
        assert client.agent.get(id="a").pid == agent.pid
        client.agent.spawn(spec=spec(*SLEEP, name="b"))
        assert kinds(client).count("health_changed") == 2
        server.kill()
        server.start()
        assert [agent.name for agent in all_agents(client)] == ["a", "b"]
        assert client.audit.verify().holds


def another_run(server: Managed) -> subprocess.CompletedProcess[str]:
    """Start a second daemon on the same directory, and wait for its end."""
    return subprocess.run(
        [BIN / "descartesd", "--config", server.config],
        capture_output=True,
        text=True,
        env={name: each for name, each in server.environ.items() if name != "NOTIFY_SOCKET"},
        timeout=PATIENT_S,
        check=False,
    )


def test_fault_69_second_daemon_is_refused_where_nothing_can_be_written(server: Managed) -> None:
    with unwritable(server.directory / "state"):
        server.start()
        second = another_run(server)
    assert second.returncode == 78
    assert "another descartesd runs on the state directory" in second.stderr
    # Nor once it can: what the first holds does not depend on it.
    third = another_run(server)
    assert third.returncode == 78
    with server.client() as client:
        assert client.agent.get(id="a").state == "running"


def test_fault_63_state_directory_that_becomes_unwritable_bars_changes_until_it_is_writable_again(
    server: Managed,
) -> None:
    server.start()
    with server.client() as client:
        pid = client.agent.get(id="a").pid
        with unwritable(server.directory / "state"):
            eventually(lambda: client.server.health().status == "degraded", timeout=PATIENT_S)
            assert "cannot be written" in refused(client).message
            assert client.agent.get(id="a").pid == pid
            eventually(lambda: "degraded" in server.hearing.status)
        eventually(lambda: client.server.health().status == "ok", timeout=PATIENT_S)
        client.agent.spawn(spec=spec(*SLEEP, name="b"))
        assert server.process is not None
        assert server.process.poll() is None
        assert kinds(client).count("health_changed") == 2


def test_fault_63_full_disk_bars_changes_loses_nothing_and_is_recovered_from() -> None:
    with small_disk(8192) as disk, Managed() as server:
        server.environ["DESCARTES_SERVER__STATE_DIR"] = str(disk / "state")
        server.environ["DESCARTES_SERVER__OUTPUT_DIR"] = str(server.root / "output")
        subprocess.run(["cp", "-a", server.directory / "state", disk / "state"], check=True)
        server.start()
        with server.client() as client:
            agent = client.agent.spawn(spec=spec(*SLEEP, name="a"))
            filler = fill(disk)
            eventually(lambda: not takes_changes(client), timeout=PATIENT_S, step=0)
            refused(client)
            assert client.server.health().status == "degraded"
            server.kill()
            server.start()
            assert client.agent.get(id="a").pid == agent.pid
            assert client.server.health().status == "degraded"
            refused(client)
            filler.unlink()
            eventually(lambda: takes_changes(client), timeout=PATIENT_S)
            client.agent.kill(id="a")
            assert client.audit.verify().holds


def test_without_a_keeper_reads_are_served(server: Managed) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    os.kill(keeper, signal.SIGSTOP)
    try:
        server.start()
        with server.client() as client:
            health = client.server.health()
            assert health.status == "degraded"
            assert "the keeper is not connected" in health.checks["keeper"]
            assert client.agent.get(id="a").state == "running"
            assert "keeper" in refused(client).message
    finally:
        os.kill(keeper, signal.SIGCONT)
    with server.client() as client:
        eventually(lambda: client.server.health().status == "ok", timeout=PATIENT_S)
        client.agent.kill(id="a")


def damage(path: Path, kind: str) -> None:
    """Leave of a registry what is no registry."""
    for part in ("-wal", "-shm"):
        path.with_name(path.name + part).unlink(missing_ok=True)
    if kind == "corrupt":
        path.write_bytes(b"\xff" * 20_000)
    else:
        path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("kind", ["corrupt", "truncated"])
def test_fault_64_damaged_registry_is_put_aside_and_the_keepers_agents_are_taken_in(
    server: Managed, kind: str
) -> None:
    registry = server.directory / "state" / "registry.sqlite"
    damage(registry, kind)
    left = registry.read_bytes()

    server.start()

    with server.client() as client:
        (aside,) = registry.parent.glob("registry.sqlite.damaged-*Z")
        assert aside.read_bytes() == left
        health = client.server.health()
        assert health.status == "degraded"
        assert str(aside) in health.checks["registry"]
        eventually(lambda: "the registry was damaged" in server.hearing.status)
        assert len(lines(server, "registry.damaged")) == 1
        (agent,) = all_agents(client)
        assert (agent.name, agent.state, agent.owner) == ("a", "running", "uid:0")
        assert agent.labels == {"recovered": "keeper"}
        (taken,) = lines(server, "agent.taken_in")
        assert taken["agent"] == agent.id
        assert client.agent.output(id="a", stream="stdout").data == b"said\n"
        ended = client.agent.kill(id="a")
        assert ended.outcome is not None
        assert (ended.state, ended.outcome.reason) == ("terminated", "killed")
        client.agent.spawn(spec=spec(*SLEEP, name="b"))
        server.stop()
        server.start()
        assert "registry was damaged" not in client.server.health().checks["registry"]
        assert [agent.name for agent in all_agents(client)] == ["a", "b"]


def test_fault_64_registry_of_a_newer_version_is_refused_and_left_as_it_is(server: Managed) -> None:
    registry = server.directory / "state" / "registry.sqlite"
    with closing(sqlite3.connect(registry, isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 99")

    server.start(wait=False)

    assert server.process is not None
    assert server.process.wait(timeout=PATIENT_S) == 78
    assert "has schema version 99, newer than" in server.hearing.status
    assert list(registry.parent.glob("*.damaged*")) == []
