"""Agents that cannot be started, and what those that can must not inherit."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from descartesd.client import Client
from descartesd.errors import (
    InvalidArgumentError,
)
from descartesd.wire.agent import AgentSpec
from tests.support.agents import (
    keeper_fds,
    left_empty,
    output,
    python,
    spec,
    start_under,
)
from tests.support.eventually import eventually
from tests.support.server import SETTABLE_SIGNALS, Server


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


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
    assert seen["signals"]["SigIgn"] & ~own & SETTABLE_SIGNALS == 0
    assert seen["umask"] == "0022"
    assert seen["session"]
