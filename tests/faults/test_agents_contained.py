"""Agents that try to get away, to take everything, or to reach their server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest

from descartesd.client import Client
from descartesd.errors import ConflictError, UnimplementedError
from descartesd.wire.agent import Limits
from tests.support.agents import (
    DETACHED,
    SLEEP,
    carrying,
    left_empty,
    python,
    sh,
    spec,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.groups import control_group, running_in
from tests.support.server import Server, gone, running

# 30 processes at any time, each soon replaced by its child; none heeds the signal to end.
FORK_BOMB = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(30):
    if os.fork() == 0:
        while not os.fork():
            time.sleep(0.01)
        os._exit(0)
os.write(1, b"full")
time.sleep(300)
"""
# What an agent of the server's user could do, and one of another user must not.
INTRUSION = """
import ctypes, os, socket, sys
directory, daemon, keeper = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def refused(what, *arguments):
    try:
        what(*arguments)
    except PermissionError:
        print("refused", flush=True)
    else:
        print("done", what, arguments, flush=True)
def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0):
        raise OSError(ctypes.get_errno(), "ptrace")
def connect(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)
refused(os.listdir, f"{directory}/keys")
refused(open, f"{directory}/keys/host.key")
refused(open, f"{directory}/profiles/admin.toml")
refused(open, f"{directory}/state/registry.sqlite", "r+b")
refused(os.listdir, f"{directory}/state/output")
refused(connect, f"{directory}/run/keeper.sock")
for pid in (daemon, keeper):
    refused(trace, pid)
    refused(os.kill, pid, 0)
    refused(open, f"/proc/{pid}/mem", "rb")
    refused(open, f"/proc/{pid}/environ", "rb")
    refused(os.listdir, f"/proc/{pid}/fd")
"""


@pytest.fixture(scope="module", params=["tree", "cgroup"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that knows its agents by their tree, and one that has control groups for them."""
    with ExitStack() as stack:
        if request.param == "cgroup":
            yield stack.enter_context(running_in(stack.enter_context(control_group())))
        else:
            yield stack.enter_context(running())


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with server.client() as client, left_empty(client):
        yield client


def test_fault_49_double_forked_child_without_its_environment_ends_with_the_agent(
    client: Client,
) -> None:
    agent = client.agent.spawn(spec=python(DETACHED, stdin="pipe"))
    child = int(until_output(client, agent.id, b"\n"))

    assert client.agent.kill(id=agent.id).state == "terminated"

    gone(child)
    assert carrying("DESCARTES_AGENT_ID", agent.id) == []


def test_fault_50_fork_bomb_is_killed_within_a_second_and_the_others_go_on(client: Client) -> None:
    bystander = client.agent.spawn(spec=spec(*SLEEP))
    bomb = client.agent.spawn(spec=python(FORK_BOMB))
    until_output(client, bomb.id, b"full")
    client.server.health()
    began = time.monotonic()

    assert client.agent.kill(id=bomb.id).outcome is not None

    eventually(lambda: carrying("DESCARTES_AGENT_ID", bomb.id) == [])
    if client.agent.pause(id=bystander.id).pause_mode == "cgroup":
        assert time.monotonic() - began < 1
    assert client.agent.resume(id=bystander.id).state == "running"


def test_fault_51_limit_of_memory_is_refused_where_nothing_can_hold_it(client: Client) -> None:
    limits = Limits(memory_bytes=1 << 26)
    with pytest.raises(UnimplementedError, match=r"limits\.memory_bytes: .* cannot enforce"):
        client.agent.spawn(spec=spec(*SLEEP, name="hog", limits=limits))
    assert [agent.name for agent in client.agent.list().agents] == []

    limits = Limits(memory_bytes=1 << 26, best_effort=True, open_files=50, output_bytes=1 << 20)
    agent = client.agent.spawn(spec=spec(*SLEEP, limits=limits))

    real = {"open_files": True, "output_bytes": True}
    assert agent.limits_enforced == {"memory_bytes": False, **real}


@pytest.mark.skipif(os.getuid() != 0, reason="only a server of root starts agents as others")
def test_fault_58_agent_of_another_user_reaches_nothing_of_its_server(
    server: Server, client: Client
) -> None:
    assert server.process is not None
    os.chmod(server.root, 0o755)
    os.chmod(server.directory, 0o755)
    program = "/usr/bin/python3"
    if not os.path.exists(program):
        pytest.skip("needs an interpreter every user may run")
    words = (str(server.directory), str(server.process.pid), str(server.keeper_pid))
    agent = client.agent.spawn(
        spec=spec(program, "-I", "-S", "-c", INTRUSION, *words, user="nobody", cwd="/",
                  env={"TMPDIR": "/tmp"})
    )  # fmt: skip

    ended = client.agent.wait(id=agent.id)

    output = client.agent.output(id=agent.id).data.decode()
    errors = client.agent.output(id=agent.id, stream="stderr").data.decode()
    assert (ended.state, errors) == ("completed", "")
    assert output.splitlines() == ["refused"] * 16


def test_fault_59_pause_and_resume_against_kill_leave_nothing(
    server: Server, client: Client
) -> None:
    def disturb(agent_id: str) -> None:
        with server.client() as other:
            for verb in (other.agent.pause, other.agent.resume) * 20:
                try:
                    verb(id=agent_id)
                except ConflictError:
                    return

    with ThreadPoolExecutor(1) as pool:
        for wait_s in (0.0, 0.005, 0.02, 0.03, 0.05):
            agent = client.agent.spawn(spec=sh("echo on; sleep 300 & while :; do :; done"))
            disturbed = pool.submit(disturb, agent.id)
            until_output(client, agent.id, b"on\n")
            Event().wait(wait_s)
            ended = client.agent.kill(id=agent.id)
            disturbed.result()
            assert (ended.state, ended.paused_at, ended.pause_mode) == ("terminated", None, None)
            assert carrying("DESCARTES_AGENT_ID", agent.id) == []
            # What is started where something was frozen runs.
            client.agent.respawn(id=agent.id)
            until_output(client, agent.id, b"on\non\n")
            client.agent.kill(id=agent.id)
