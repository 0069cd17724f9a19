"""What tests of running agents share: specs, whole outputs, and a look at their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psutil

from descartesd.client import Client
from descartesd.errors import NotFoundError
from descartesd.wire.agent import AgentInfo, AgentRef, AgentSpec, State, StreamName
from descartesd.wire.methods import AGENT_KILL, AGENT_REMOVE
from tests.support.eventually import eventually
from tests.support.server import BIN, Server

SLEEP = ("sleep", "300")
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


def spec(*command: str, **fields: Any) -> AgentSpec:
    """Describe an agent that runs a command."""
    return AgentSpec(command=list(command), **fields)


def sh(script: str, **fields: Any) -> AgentSpec:
    """Describe an agent that runs a shell script."""
    return spec("/bin/sh", "-c", script, **fields)


def python(script: str, *arguments: str, **fields: Any) -> AgentSpec:
    """Describe an agent that runs a Python script, without site packages for a quick start."""
    return spec(sys.executable, "-I", "-S", "-c", script, *arguments, **fields)


def all_agents(client: Client) -> list[AgentInfo]:
    """Every agent, over all pages."""
    found: list[AgentInfo] = []
    cursor = None
    while True:
        page = client.agent.list(limit=1000, cursor=cursor)
        found.extend(page.agents)
        cursor = page.next
        if cursor is None:
            return found


@contextmanager
def left_empty(client: Client) -> Iterator[Client]:
    """End and remove every agent after the block."""
    try:
        yield client
    finally:
        for method in (AGENT_KILL, AGENT_REMOVE):
            refs = [(method, AgentRef(id=agent.id)) for agent in all_agents(client)]
            for answer in client.pipeline(refs):
                assert not isinstance(answer, Exception), answer


def output(client: Client, agent_id: str, stream: StreamName = "stdout") -> bytes:
    """Everything a stream still has, page by page."""
    parts = []
    offset = 0
    while True:
        chunk = client.agent.output(id=agent_id, stream=stream, offset=offset, limit=1 << 20)
        if not chunk.data:
            return b"".join(parts)
        parts.append(chunk.data)
        offset = chunk.next_offset


def until_output(client: Client, agent_id: str, wanted: bytes, timeout: float = 5.0) -> bytes:
    """Wait until the agent has written something; everything it wrote by then."""
    return eventually(
        lambda: (text := output(client, agent_id)) and (text if wanted in text else b""),
        timeout=timeout,
    )


def until_state(client: Client, agent_id: str, state: State, timeout: float = 5.0) -> AgentInfo:
    """Wait until an agent is there and in a state."""

    def found() -> AgentInfo | None:
        try:
            agent = client.agent.get(id=agent_id)
        except NotFoundError:
            return None
        return agent if agent.state == state else None

    return cast("AgentInfo", eventually(found, timeout=timeout))


def carrying(name: str, value: str) -> list[psutil.Process]:
    """Processes with this variable in the environment they were started with."""
    wanted = f"{name}={value}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if wanted in file.read().split(b"\0") and is_alive(process):
                    found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped by a signal.

    Or asleep in the kernel, as one is whose child was stopped before its exec (vfork(2)).
    """
    threads = [f"{pid}/task/{thread.id}" for thread in psutil.Process(pid).threads()]
    return all(_state(thread) in "TD" for thread in threads)


def _state(thread: str) -> str:
    with open(f"/proc/{thread}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(") ")[2][0]


def keeper_fds(server: Server) -> list[str]:
    """What the keeper's descriptors stand for."""
    assert server.keeper_pid is not None
    return descriptors(server.keeper_pid)


def descriptors(pid: int) -> list[str]:
    """What a process's descriptors stand for."""
    directory = f"/proc/{pid}/fd"
    found = []
    for fd in os.listdir(directory):
        try:
            link = os.readlink(f"{directory}/{fd}")
        except FileNotFoundError:
            continue
        # A pipe or a socket is always another one, and a process knows its own files as its own.
        link = link.replace(f"/proc/{pid}/", "/proc/self/")
        found.append(link.partition("[")[0] if link.startswith(("pipe:", "socket:")) else link)
    return sorted(found)


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


def times_lost(server: Server) -> Counter[str]:
    """How often each agent was called lost, by the server's own log."""
    lines = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
    return Counter(line["agent"] for line in lines if line.get("state") == "lost")
