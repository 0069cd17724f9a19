"""More agents at once, or fewer descriptors for them, than is comfortable."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from descartesd.client import Client
from descartesd.errors import (
    DeadlineExceededError,
    ResourceExhaustedError,
)
from descartesd.wire.agent import AgentInfo, AgentRef, AgentSpawn
from descartesd.wire.methods import AGENT_SPAWN, AGENT_WAIT
from tests.support.agents import (
    DETACHED,
    SLEEP,
    all_agents,
    is_stopped,
    keeper_fds,
    left_empty,
    python,
    sh,
    spec,
    start_under,
    until_output,
    until_state,
)
from tests.support.server import Server, alive, gone


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def test_fault_60_every_exit_code_of_500_agents_that_end_at_once_is_exact(
    client: Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    codes = [number % 256 for number in range(500)]
    # Opened for both, so that the agents' opening waits for nobody.
    opened = os.open(gate, os.O_RDWR)
    script = 'read go < "$1"; exit $2'
    agents: list[AgentInfo] = client.pipeline(
        [
            (AGENT_SPAWN, AgentSpawn(spec=spec("/bin/sh", "-c", script, "sh", str(gate), str(n))))
            for n in codes
        ]
    )
    # A line for each: one that has yet to open it finds its own, where it would wait for ever for
    # a writer that had come and gone.
    os.write(opened, b"\n" * len(codes))
    ended: list[AgentInfo] = client.pipeline(
        [(AGENT_WAIT, AgentRef(id=agent.id)) for agent in agents]
    )
    os.close(opened)

    told = [(agent.state, agent.outcome and agent.outcome.exit_code) for agent in ended]
    assert told == [("completed" if code == 0 else "failed", code) for code in codes]
    assert not any(psutil.pid_exists(agent.pid) for agent in agents if agent.pid)


def fill(client: Client) -> tuple[list[AgentInfo], ResourceExhaustedError]:
    """Start agents until one is refused."""
    agents: list[AgentInfo] = []
    while len(agents) < 200:
        try:
            agents.append(client.agent.spawn(spec=spec(*SLEEP)))
        except ResourceExhaustedError as error:
            return agents, error
    raise AssertionError("no agent was refused")


def test_fault_65_keeper_that_may_have_few_descriptors_refuses_in_time_and_recovers() -> None:
    with Server() as server:
        start_under(server, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
        with server.client() as client:
            agents, refused = fill(client)
            assert refused.retryable
            assert len(agents) >= 8
            assert len(all_agents(client)) == len(agents)
            first, second = agents[:2]

            assert client.agent.pause(id=first.id).state == "paused"
            assert first.pid is not None
            assert is_stopped(first.pid)
            assert client.agent.resume(id=first.id).state == "running"
            assert client.agent.stop(id=first.id).state == "terminated"
            client.agent.remove(id=first.id)
            assert client.agent.spawn(spec=spec(*SLEEP)).state == "running"
            assert client.agent.kill(id=second.id).state == "terminated"


@contextmanager
def descriptors_below(pid: int, limit: int) -> Iterator[None]:
    """Keep a process from opening descriptors from this number on, for the time of a block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_fault_65_spawn_is_refused_wherever_descriptors_run_out(server: Server) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    with server.client() as client:
        agent = client.agent.spawn(spec=sh("trap 'exit 7' TERM; echo ready; read go", stdin="pipe"))
        until_output(client, agent.id, b"ready")
        before = keeper_fds(server)
        most = max(int(fd) for fd in os.listdir(f"/proc/{keeper}/fd"))
        answers = []
        for limit in (3, *range(most - 8, most + 16)):
            with descriptors_below(keeper, limit):
                answers.extend(client.pipeline([(AGENT_SPAWN, AgentSpawn(spec=spec(*SLEEP)))]))
        started = [answer for answer in answers if isinstance(answer, AgentInfo)]
        refused = [answer for answer in answers if not isinstance(answer, AgentInfo)]
        for other in started:
            client.agent.kill(id=other.id)
            client.agent.remove(id=other.id)

        assert started
        assert {type(error) for error in refused} == {ResourceExhaustedError}
        assert all(os.strerror(errno.EMFILE) in error.message for error in refused)
        assert [left.id for left in all_agents(client)] == [agent.id]
        assert keeper_fds(server) == before
        assert client.server.health().status == "ok"
        assert client.agent.pause(id=agent.id).state == "paused"
        assert client.agent.resume(id=agent.id).state == "running"
        ended = client.agent.stop(id=agent.id)

    assert ended.outcome is not None
    assert ended.outcome.exit_code == 7


def second_hole(pid: int) -> int:
    """The second lowest descriptor number a process does not use."""
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    return [number for number in range(len(used) + 2) if number not in used][1]


def test_fault_65_existing_agent_is_controlled_with_two_free_descriptors(server: Server) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    with server.client() as client:
        agent = client.agent.spawn(spec=python(DETACHED, stdin="pipe"))
        child = int(until_output(client, agent.id, b"\n"))
        assert agent.pid is not None
        with descriptors_below(keeper, second_hole(keeper) + 1):
            assert client.agent.pause(id=agent.id).state == "paused"
            assert is_stopped(agent.pid)
            assert is_stopped(child)
            assert client.agent.resume(id=agent.id).state == "running"
            assert not is_stopped(child)
            assert client.agent.kill(id=agent.id).state == "terminated"
            gone(child)


def test_fault_65_without_a_descriptor_nothing_false_is_told_and_the_work_goes_on_later(
    server: Server,
) -> None:
    assert server.keeper_pid is not None
    with server.client() as client:
        paused, killed = (client.agent.spawn(spec=spec(*SLEEP)) for _ in range(2))
        assert paused.pid is not None
        with descriptors_below(server.keeper_pid, 3):
            for verb, agent in ((client.agent.pause, paused), (client.agent.kill, killed)):
                try:
                    told = verb(id=agent.id, deadline_s=0.3)
                except DeadlineExceededError:
                    continue
                assert not alive(agent.pid or 0) or is_stopped(agent.pid or 0), told.state

        until_state(client, paused.id, "paused")
        assert is_stopped(paused.pid)
        until_state(client, killed.id, "terminated")
        assert not alive(killed.pid or 0)
