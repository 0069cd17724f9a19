"""Agents that end badly, refuse to end, cannot be started, or come in a crowd."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from descartesd.client import Client
from descartesd.errors import ConflictError, InvalidArgumentError, ResourceExhaustedError
from descartesd.wire.agent import AgentInfo, AgentRef, AgentSpawn, AgentSpec
from descartesd.wire.methods import AGENT_SPAWN, AGENT_WAIT
from tests.support.agents import (
    SLEEP,
    all_agents,
    is_alive,
    is_stopped,
    left_empty,
    output,
    python,
    sh,
    spec,
    until_output,
    until_state,
)
from tests.support.eventually import eventually
from tests.support.server import BIN, Server, gone, running

# Starts a child in a session of its own and leaves it; the child writes its pid and waits.
DETACHED = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, f"{os.getpid()}\\n".encode())
        time.sleep(300)
    os._exit(0)
os.wait()
os.read(0, 1)
"""


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def keeper_fds(server: Server) -> list[str]:
    """What the keeper's descriptors stand for."""
    directory = f"/proc/{server.keeper_pid}/fd"
    found = []
    for fd in os.listdir(directory):
        try:
            link = os.readlink(f"{directory}/{fd}")
        except FileNotFoundError:
            continue
        # A pipe is always another one.
        found.append(link.partition("[")[0] if link.startswith("pipe:") else link)
    return sorted(found)


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
        assert server.keeper_pid is not None
        server.kill()
        os.kill(server.keeper_pid, signal.SIGKILL)
        os.kill(agent.pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(agent.pid))
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


class Unstartable:
    """Commands that cannot be started, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def script(self, content: str, mode: int = 0o755) -> str:
        path = self.directory / "program"
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    def case(self, name: str) -> tuple[AgentSpec, int | None]:
        match name:
            case "no such program":
                return spec("/nowhere/program"), errno.ENOENT
            case "not in the path":
                return spec("no-such-program-anywhere"), None
            case "not executable":
                return spec(self.script("#!/bin/sh\n", 0o644)), errno.EACCES
            case "a directory":
                return spec(str(self.directory)), errno.EACCES
            case "no interpreter":
                return spec(self.script("#!/nowhere/sh\n")), errno.ENOENT
            case "no format":
                return spec(self.script("neither a script nor a binary")), errno.ENOEXEC
            case "too long":
                return spec("/bin/true", "é" * 100_000), errno.E2BIG
            case "no cwd":
                return spec("true", cwd="/nowhere"), errno.ENOENT
            case "cwd is a file":
                return spec("true", cwd="/etc/passwd"), errno.ENOTDIR
        raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "no such program", "not in the path", "not executable", "a directory", "no interpreter",
        "no format", "too long", "no cwd", "cwd is a file",
    ],
)  # fmt: skip
def test_fault_56_spawn_that_fails_says_why_and_leaves_nothing(
    client: Client, shared_server: Server, tmp_path: Path, name: str
) -> None:
    wanted, number = Unstartable(tmp_path).case(name)
    keeper = psutil.Process(shared_server.keeper_pid)
    fds = keeper_fds(shared_server)
    fields = {**{f: getattr(wanted, f) for f in wanted.__struct_fields__}, "name": "unlucky"}

    with pytest.raises(InvalidArgumentError) as caught:
        client.agent.spawn(spec=AgentSpec(**fields))

    assert number is None or os.strerror(number) in caught.value.message
    assert client.agent.list().total == 0
    assert keeper_fds(shared_server) == fds
    assert keeper.children() == []
    assert not list((shared_server.directory / "state" / "output").glob("*.std*"))
    assert client.agent.spawn(spec=spec("true", name="unlucky")).name == "unlucky"


REPORT = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
with open("/proc/self/environ", "rb") as file:
    environ = file.read().decode().rstrip(chr(0)).split(chr(0))
links = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        links[fd] = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        pass
print(json.dumps({
    "fds": links,
    "environ": environ,
    "signals": {name: int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")},
    "umask": status["Umask"].strip(),
    "session": os.getsid(0) == os.getpid() == os.getpgid(0),
}))
"""
NOT_FOR_AGENTS = {
    "NOTIFY_SOCKET": "/tmp/nobody-listens-here",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDNAMES": "other",
    "WATCHDOG_USEC": "30000000",
    "WATCHDOG_PID": "1",
    "CREDENTIALS_DIRECTORY": "/nowhere",
    "INVOCATION_ID": "0123456789abcdef",
    "JOURNAL_STREAM": "1:1",
    "SECRET_OF_THE_DAEMON": "canary",
}


def start_under(server: Server, prepare: Callable[[], None], extra_fds: Sequence[int] = ()) -> None:
    """Start the daemon, and with it its keeper, after `prepare` has run in the new process."""
    with server.log.open("ab") as log:
        server.process = subprocess.Popen(
            [BIN / "descartesd", "--config", server.config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=server.environ,
            pass_fds=extra_fds,
            preexec_fn=prepare,  # noqa: PLW1509 - no other thread runs in these tests
        )
    server.wait_until_serving()


def spoil() -> None:
    """Make a process inherit what no agent should."""
    os.umask(0o000)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGWINCH})


def test_fault_57_agent_inherits_nothing_of_the_daemons_own() -> None:
    with Server() as server, open("/etc/passwd", "rb") as extra:
        server.environ.update(NOT_FOR_AGENTS)
        start_under(server, spoil, [extra.fileno()])
        with server.client() as client:
            agent = client.agent.spawn(spec=python(REPORT, env={"MINE": "1"}, name="reporter"))
            client.agent.wait(id=agent.id)
            eventually(lambda: client.agent.output(id=agent.id).eof)
            seen: dict[str, Any] = json.loads(output(client, agent.id))

    opened = {fd: link for fd, link in seen["fds"].items() if not link.startswith("/proc/")}
    assert opened.keys() == {"0", "1", "2"}
    assert opened["0"] == "/dev/null"
    assert opened["1"].startswith("pipe:")
    assert opened["2"].startswith("pipe:")
    names = {entry.partition("=")[0] for entry in seen["environ"]}
    assert names == {
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "MINE",
        "DESCARTES_AGENT_ID", "DESCARTES_AGENT_NAME",
    }  # fmt: skip
    assert f"DESCARTES_AGENT_ID={agent.id}" in seen["environ"]
    assert "DESCARTES_AGENT_NAME=reporter" in seen["environ"]
    # What is left ignored is the interpreter's own doing.
    own = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert seen["signals"]["SigBlk"] == 0
    assert seen["signals"]["SigIgn"] & ~own == 0
    assert seen["umask"] == "0022"
    assert seen["session"]


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
    os.close(opened)
    ended: list[AgentInfo] = client.pipeline(
        [(AGENT_WAIT, AgentRef(id=agent.id)) for agent in agents]
    )

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


def test_fault_65_existing_agent_is_controlled_though_no_descriptor_is_free(
    server: Server,
) -> None:
    assert server.keeper_pid is not None
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        assert agent.pid is not None
        with descriptors_below(server.keeper_pid, 3):
            assert client.agent.pause(id=agent.id).state == "paused"
            assert is_stopped(agent.pid)
            assert client.agent.resume(id=agent.id).state == "running"
            assert client.agent.kill(id=agent.id, deadline_s=3).state == "terminated"
