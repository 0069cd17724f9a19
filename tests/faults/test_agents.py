"""Agents that end badly or refuse to end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    WouldBlockError,
)
from descartesd.wire.agent import AgentSpawn, Tty
from descartesd.wire.methods import AGENT_SPAWN
from tests.support.agents import (
    DETACHED,
    SLEEP,
    is_alive,
    keeper_fds,
    left_empty,
    python,
    sh,
    spec,
    until_output,
    until_state,
)
from tests.support.eventually import eventually
from tests.support.server import Server, gone, running


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def server_pids(server: Server) -> list[int]:
    """The daemon and its keeper."""
    assert server.process is not None
    assert server.keeper_pid is not None
    return [server.process.pid, server.keeper_pid]


def seconds_until_told(client: Client) -> float:
    """From the moment an agent is let go until its exit is told."""
    agent = client.agent.spawn(
        spec=sh("setsid sh -c 'trap : TERM; sleep 300; :' & read go; exit 3", stdin="pipe")
    )
    begun = time.monotonic()
    client.agent.close_stdin(id=agent.id)
    ended = client.agent.wait(id=agent.id)
    took = time.monotonic() - begun
    assert ended.state == "failed"
    assert ended.outcome is not None
    assert (ended.outcome.exit_code, ended.outcome.reason) == (3, "exit")
    return took


@pytest.mark.parametrize("kind", [{"stdin": "pipe"}, {"tty": Tty()}], ids=["pipe", "terminal"])
def test_fault_33_stdin_of_an_agent_that_does_not_read_is_bounded(
    client: Client, shared_server: Server, kind: dict[str, Any]
) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP, **kind))
    piece = b"a line that nobody reads\n" * 2_500
    processes = [psutil.Process(pid) for pid in server_pids(shared_server)]

    def fill() -> int:
        """Write until it is refused, and on: how much has been taken."""
        accepted = refused = 0
        while refused < 100:
            try:
                accepted += client.agent.write(id=agent.id, data=piece).accepted
            except WouldBlockError:
                refused += 1
        return accepted

    taken = fill()
    before = [process.memory_info().rss for process in processes]
    assert fill() == 0
    # 6 MiB more have been sent by then.
    grown = [
        process.memory_info().rss - rss for process, rss in zip(processes, before, strict=True)
    ]

    assert 256 * 1024 < taken < 768 * 1024
    assert max(grown) < 2 << 20
    # Everything else goes on, the end of this agent too.
    other = client.agent.spawn(spec=spec("cat", stdin="pipe"))
    client.agent.write(id=other.id, data=b"x")
    until_output(client, other.id, b"x")
    assert client.agent.kill(id=agent.id).state == "terminated"


@pytest.mark.parametrize("verb", ["kill", "stop", "exit"])
def test_fault_49_double_forked_child_in_its_own_session_ends_with_the_agent(
    client: Client, verb: str
) -> None:
    agent = client.agent.spawn(spec=python(DETACHED, stdin="pipe"))
    child = int(until_output(client, agent.id, b"\n"))

    if verb == "kill":
        client.agent.kill(id=agent.id)
    elif verb == "stop":
        client.agent.stop(id=agent.id, grace_s=0.2)
    else:
        client.agent.close_stdin(id=agent.id)
    ended = client.agent.wait(id=agent.id)

    gone(child)
    assert ended.outcome is not None
    if verb == "exit":
        assert ended.outcome.leftovers == 1


def test_fault_53_exit_is_told_though_a_grandchild_holds_stdout(client: Client) -> None:
    fastest = min(seconds_until_told(client) for _ in range(5))

    assert fastest < 0.1


def test_fault_53_output_ends_though_somebody_else_holds_the_pipe(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("echo begun; read go", stdin="pipe"))
    until_output(client, agent.id, b"begun")

    with open(f"/proc/{agent.pid}/fd/1", "wb", buffering=0) as outsider:
        client.agent.close_stdin(id=agent.id)
        ended = client.agent.wait(id=agent.id)
        outsider.write(b"late\n")
        at_exit = client.agent.output(id=agent.id)
        begun = time.monotonic()
        with client.agent.follow(id=agent.id) as stream:
            followed = b"".join(chunk.data for chunk in stream)
        took = time.monotonic() - begun

    assert ended.state == "failed"
    assert not at_exit.eof
    assert followed == b"begun\nlate\n"
    assert took < 2.5
    assert client.agent.output(id=agent.id, offset=len(followed)).eof


@pytest.mark.parametrize(
    "script",
    [
        "trap '' TERM; echo ready; while :; do sleep 1; done",
        "echo ready; kill -STOP $$; echo never",
    ],
    ids=["ignores TERM", "is stopped"],
)
def test_fault_54_agent_that_does_not_heed_a_stop_is_killed_after_its_grace(
    client: Client, script: str
) -> None:
    agent = client.agent.spawn(spec=sh(script))
    until_output(client, agent.id, b"ready")
    begun = time.monotonic()

    ended = client.agent.stop(id=agent.id, grace_s=0.3)

    assert 0.3 <= time.monotonic() - begun < 2
    assert ended.state == "terminated"
    assert ended.outcome is not None
    assert (ended.outcome.reason, ended.outcome.signal) == ("stopped", signal.SIGKILL)
    assert ended.outcome.exit_code is None


def test_fault_54_agent_asleep_in_the_kernel_is_paused_and_ended(
    client: Client, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # In vfork(2) the parent sleeps without heeding signals until the child executes something,
    # and this child first waits for a writer.
    agent = client.agent.spawn(
        spec=python(
            "import os, sys\n"
            "wait = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)\n"
            "os.posix_spawn('/bin/true', ['true'], {}, file_actions=[wait])",
            str(fifo),
        )
    )
    assert agent.pid is not None
    leader = psutil.Process(agent.pid)
    eventually(lambda: leader.status() == psutil.STATUS_DISK_SLEEP)

    paused = client.agent.pause(id=agent.id)
    ended = client.agent.stop(id=agent.id, grace_s=0.2)

    assert paused.state == "paused"
    assert ended.state == "terminated"
    assert not is_alive(leader)


def test_fault_54_nobody_waits_for_an_agent_that_does_not_end(
    client: Client, shared_server: Server
) -> None:
    agent = client.agent.spawn(spec=sh("trap '' TERM; echo ready; while :; do sleep 1; done"))
    until_output(client, agent.id, b"ready")

    with shared_server.client() as second, ThreadPoolExecutor(1) as pool:
        stop = pool.submit(second.agent.stop, id=agent.id, grace_s=1.0)
        shown = until_state(client, agent.id, "stopping")
        others = client.pipeline([(AGENT_SPAWN, AgentSpawn(spec=spec(*SLEEP)))] * 10)
        for other in others:
            assert client.agent.kill(id=other.id).state == "terminated"
        was_over = stop.done()
        ended = stop.result()

    assert shown.pid == agent.pid
    assert not was_over
    assert ended.state == "terminated"


def take_pid(pid: int) -> psutil.Popen:
    """Start a process under a pid that has just been free."""
    for _ in range(100):
        with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
            file.write(str(pid - 1))
        process = psutil.Popen(["sleep", "300"])
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    raise AssertionError(f"pid {pid} could not be taken")


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Be the parent of what loses its own, to know when its pid is free (prctl(2))."""
    set_child_subreaper = 36
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)


@pytest.fixture
def bystander() -> Iterator[Callable[[int], psutil.Popen]]:
    """Make a process of somebody else under a wanted pid."""
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("only root can choose the next pid")
    made: list[psutil.Popen] = []

    def make(pid: int) -> psutil.Popen:
        made.append(take_pid(pid))
        return made[-1]

    yield make
    for process in made:
        process.kill()
        process.wait()


def test_fault_55_verbs_on_an_ended_agent_do_not_reach_the_next_user_of_its_pid(
    client: Client, bystander: Callable[[int], psutil.Popen]
) -> None:
    agent = client.agent.spawn(spec=sh("read go; exit 0", stdin="pipe"))
    client.agent.close_stdin(id=agent.id)
    client.agent.wait(id=agent.id)
    assert agent.pid is not None
    other = bystander(agent.pid)

    assert client.agent.kill(id=agent.id).state == "completed"
    assert client.agent.stop(id=agent.id).state == "completed"
    for verb in (client.agent.pause, client.agent.resume):
        with pytest.raises(ConflictError):
            verb(id=agent.id)
    with pytest.raises(ConflictError):
        client.agent.signal(id=agent.id, signal="KILL")

    assert is_alive(other)
    assert other.status() == psutil.STATUS_SLEEPING


def test_fault_55_new_keeper_does_not_end_the_next_user_of_a_lost_agents_pid(
    bystander: Callable[[int], psutil.Popen],
) -> None:
    with running() as server:
        with server.client() as client:
            agent = client.agent.spawn(spec=spec(*SLEEP))
        assert agent.pid is not None
        keeper = server.keeper_pid
        assert keeper is not None
        with adopting_orphans():
            server.kill()
            for pid in (keeper, agent.pid):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        other = bystander(agent.pid)

        server.start()
        with server.client() as client:
            lost = client.agent.get(id=agent.id)

        assert lost.state == "lost"
        assert is_alive(other)


def test_fault_55_keeper_holds_one_pidfd_for_each_agent_that_runs(
    client: Client, shared_server: Server
) -> None:
    def pidfds() -> int:
        return keeper_fds(shared_server).count("anon_inode:[pidfd]")

    before = pidfds()
    agents = [client.agent.spawn(spec=spec(*SLEEP)) for _ in range(3)]
    while_running = pidfds()
    for agent in agents:
        client.agent.kill(id=agent.id)

    assert while_running == before + 3
    assert pidfds() == before
