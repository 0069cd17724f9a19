"""Limits the kernel keeps, on a real server whose keeper has control groups with controllers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.wire.agent import Limits
from tests.support.agents import SLEEP, carrying, left_empty, python, sh, spec, until_output
from tests.support.eventually import eventually
from tests.support.groups import agents_in, control_group, running_in
from tests.support.server import Server

HOG = "held = []\nwhile True: held.append(b'x' * 1_000_000)"
HOG_IN_A_CHILD = f"import os, time\nif os.fork():\n    time.sleep(300)\nos.setsid()\n{HOG}"
FORK_BOMB = "b() { b | b & }; b; sleep 300"


@pytest.fixture(scope="module")
def group() -> Iterator[Path]:
    with control_group() as made:
        yield made


@pytest.fixture(scope="module")
def server(group: Path) -> Iterator[Server]:
    with running_in(group) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with server.client() as client, left_empty(client):
        yield client


def test_every_controller_is_there(group: Path, server: Server) -> None:
    assert server.keeper_pid is not None
    enabled = (group / "cgroup.subtree_control").read_text().split()
    assert {"cpu", "memory", "pids"} <= set(enabled)


@pytest.mark.parametrize("script", [HOG, HOG_IN_A_CHILD], ids=["leader", "child"])
def test_fault_51_memory_hog_alone_is_killed_and_as_a_whole(client: Client, script: str) -> None:
    bystander = client.agent.spawn(spec=spec(*SLEEP))
    agent = client.agent.spawn(spec=python(script, limits=Limits(memory_bytes=50 << 20)))

    ended = client.agent.wait(id=agent.id)

    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason) == ("failed", "out_of_memory")
    assert ended.outcome.signal == 9
    assert agent.limits_enforced == {"memory_bytes": True}
    assert carrying("DESCARTES_AGENT_ID", agent.id) == []
    assert client.agent.get(id=bystander.id).state == "running"
    assert client.server.health().status == "ok"


def test_fault_50_fork_bomb_harms_nobody_and_leaves_nothing(group: Path, client: Client) -> None:
    bystander = client.agent.spawn(spec=spec(*SLEEP))
    bomb = client.agent.spawn(spec=spec("bash", "-c", FORK_BOMB, limits=Limits(tasks=100)))
    events = group / f"agent-{bomb.id}.1" / "pids.events"
    eventually(lambda: int(events.read_text().split()[1]) > 0, timeout=20)
    began = time.monotonic()
    for _ in range(20):
        client.server.health()
    assert time.monotonic() - began < 10

    began = time.monotonic()
    ended = client.agent.kill(id=bomb.id)

    assert time.monotonic() - began < 5
    assert ended.state == "terminated"
    eventually(lambda: agents_in(group) == [f"agent-{bystander.id}.1"])
    assert carrying("DESCARTES_AGENT_ID", bomb.id) == []
    assert client.agent.get(id=bystander.id).state == "running"


def test_processor_time_is_held_to_its_share(group: Path, client: Client) -> None:
    busy = sh("while :; do :; done & while :; do :; done", limits=Limits(cpu_percent=20))
    agent = client.agent.spawn(spec=busy)
    stat = group / f"agent-{agent.id}.1" / "cpu.stat"

    def used_us() -> int:
        return int(stat.read_text().split()[1])

    eventually(lambda: used_us() > 0)
    before, began = used_us(), time.monotonic()
    time.sleep(3)
    share = (used_us() - before) / (time.monotonic() - began) / 1e6

    assert 0.1 < share < 0.3
    assert agent.limits_enforced == {"cpu_percent": True}


def test_use_is_what_the_kernel_counts(client: Client) -> None:
    held = python("import time\nheld = b'x' * 40_000_000\nprint('on', flush=True)\ntime.sleep(300)")
    agent = client.agent.spawn(spec=held)
    until_output(client, agent.id, b"on", timeout=20)

    def usage() -> bool:
        found = client.agent.get(id=agent.id).usage
        return found is not None and found.memory_bytes > 40_000_000 and found.tasks == 1

    eventually(usage, timeout=20)
