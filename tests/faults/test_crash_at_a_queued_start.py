"""Daemon and keeper killed at the moment a queued agent is started: it runs once or never."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from descartesd.agents.record import from_row
from descartesd.wire.agent import AgentInfo, AgentSpec, Restart
from tests.support.agents import SLEEP, carrying, sh, spec, until_state
from tests.support.eventually import eventually
from tests.support.server import Server, running

KEY = "TEST_KEY"
POLICIES = {"never": Restart(), "always": Restart(policy="always", delay_s=0, jitter=0)}


@pytest.fixture
def server() -> Iterator[Server]:
    with running({"server.max_agents": 1}) as server:
        yield server


class Queued:
    """An agent the daemon has just asked a stopped keeper to start from the queue."""

    def __init__(self, server: Server, directory: Path, restart: Restart) -> None:
        self.server = server
        self.runs = directory / "runs"
        self.runs.touch()
        keeper = server.keeper_pid
        assert keeper is not None
        self.keeper = keeper
        with server.client() as client:
            client.agent.spawn(spec=spec(*SLEEP, name="holder"))
            self.id = client.agent.spawn(spec=self._spec(restart)).id
            client.server.drain()
            client.agent.kill(id="holder")
            os.kill(self.keeper, signal.SIGSTOP)
            client.server.drain(undo=True)
            eventually(self._is_asked_for)
            # Answered in order on this connection: by then the keeper has been asked.
            client.server.health()
            until_state(client, self.id, "queued")

    def _spec(self, restart: Restart) -> AgentSpec:
        script = f"echo run >> '{self.runs}'; exec sleep 300"
        return sh(script, name="waiting", env={KEY: str(self.runs)}, restart=restart)

    def _is_asked_for(self) -> bool:
        with closing(sqlite3.connect(self.server.directory / "state/registry.sqlite")) as file:
            query = "SELECT record FROM agents WHERE id = ?"
            (row,) = file.execute(query, (self.id,)).fetchone()
        return from_row(row).is_in_doubt

    def let_it_run(self) -> None:
        """Have the keeper start it, and the daemon know nothing of that."""
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        os.kill(self.keeper, signal.SIGCONT)
        eventually(lambda: self.runs.read_text() == "run\n")

    def kill_both(self) -> None:
        self.server.kill()
        os.kill(self.keeper, signal.SIGKILL)
        self.server.start()

    def after(self, *states: str) -> AgentInfo:
        with self.server.client() as client:
            until_state(client, self.id, *states)
            return client.agent.get(id=self.id)


@pytest.mark.parametrize("has_run", [True, False], ids=["started", "not yet started"])
def test_fault_61_start_from_the_queue_is_not_repeated_when_the_keeper_died_too(
    server: Server, tmp_path: Path, has_run: bool
) -> None:
    queued = Queued(server, tmp_path, POLICIES["never"])
    if has_run:
        queued.let_it_run()

    queued.kill_both()
    agent = queued.after("failed")

    assert agent.outcome is not None
    assert (agent.outcome.reason, agent.outcome.message) == (
        "spawn_error", "its start was cut short",
    )  # fmt: skip
    assert queued.runs.read_text() == "run\n" * has_run
    assert carrying(KEY, str(queued.runs)) == []


def test_fault_61_start_from_the_queue_is_repeated_when_the_keeper_died_too_by_policy_alone(
    server: Server, tmp_path: Path
) -> None:
    queued = Queued(server, tmp_path, POLICIES["always"])
    queued.let_it_run()

    queued.kill_both()
    agent = queued.after("running")

    eventually(lambda: queued.runs.read_text() == "run\n" * 2)
    assert [process.pid for process in carrying(KEY, str(queued.runs))] == [agent.pid]


@pytest.mark.parametrize("has_run", [True, False], ids=["started", "not yet started"])
def test_fault_61_start_from_the_queue_happens_once_when_the_daemon_alone_died(
    server: Server, tmp_path: Path, has_run: bool
) -> None:
    queued = Queued(server, tmp_path, POLICIES["never"])
    if has_run:
        queued.let_it_run()

    server.kill()
    os.kill(queued.keeper, signal.SIGCONT)
    server.start()
    agent = queued.after("running")

    eventually(lambda: queued.runs.read_text() == "run\n")
    assert [process.pid for process in carrying(KEY, str(queued.runs))] == [agent.pid]
