"""Agents on a terminal of a real server: by the command line, and over a crash of the daemon."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from descartesd.client import Client
from descartesd.wire.agent import Tty
from tests.support.agents import left_empty, output, python, sh, spec, until_output, until_state
from tests.support.eventually import eventually
from tests.support.server import Server, alive, gone, running

LINES = 300
# Numbered lines, one every 5 ms, then what it is sent; it tells a hang-up apart from an end.
WRITER = f"""
import os, time
for number in range({LINES}):
    os.write(1, b"line %06d\\n" % number)
    time.sleep(0.005)
os.write(1, b"got " + os.read(0, 100))
"""


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def test_terminal_agent_is_spawned_written_to_read_and_shown(
    client: Client, shared_server: Server
) -> None:
    def ctl(*arguments: str) -> str:
        done = shared_server.ctl(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    ctl("agent", "spawn", "--name", "t", "--tty", "--", "sh", "-c", "tty; echo $TERM; cat; exit 3")
    until_output(client, "t", b"xterm-256color\r\n")
    assert "24 rows, 80 columns" in ctl("agent", "show", "t")
    assert json.loads(ctl("--json", "agent", "show", "t"))["spec"]["tty"] == {
        "rows": 24,
        "cols": 80,
    }
    ctl("agent", "write", "t", "hello\n", "--eof")
    ended = client.agent.wait(id="t")

    assert ended.outcome is not None
    assert ended.outcome.exit_code == 3
    printed = ctl("agent", "logs", "t").split()
    assert printed[0].startswith("/dev/pts/")
    # What was typed, as the terminal shows it, and what cat made of it.
    assert printed[1:] == ["xterm-256color", "hello", "hello"]
    assert output(client, "t", "stderr") == b""


def test_interactive_shell_with_jobs_is_paused_resumed_and_killed(client: Client) -> None:
    agent = client.agent.spawn(spec=spec("bash", "--norc", "-i", tty=Tty()))
    client.write(agent.id, b"sleep 301 & echo job=$!; sleep 302\n")
    told = until_output(client, agent.id, b"\r\njob=")
    job = int(
        eventually(lambda: output(client, agent.id).partition(b"\r\njob=")[2].partition(b"\r")[0])
    )

    assert client.agent.pause(id=agent.id).state == "paused"
    assert client.agent.resume(id=agent.id).state == "running"
    assert b"Stopped" not in output(client, agent.id)[len(told) :]
    assert alive(job)
    ended = client.agent.kill(id=agent.id)

    gone(job)
    assert ended.outcome is not None
    assert ended.outcome.leftovers == 0


def test_kill_of_the_daemon_neither_holds_up_nor_ends_a_terminal_agent(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=python(WRITER, tty=Tty(), name="writer"))
        until_output(client, agent.id, b"line 000020")
        server.kill()
    assert agent.pid is not None
    path = server.directory / "state" / "output" / f"{agent.id}.stdout"
    # It goes on while nobody but the keeper is there.
    eventually(lambda: b"line %06d\r\n" % (LINES - 1) in path.read_bytes())
    assert alive(agent.pid)
    server.start()
    with server.client() as client:
        until_state(client, agent.id, "running")
        client.write(agent.id, b"more\n")
        ended = client.agent.wait(id=agent.id)
        whole = output(client, agent.id)

    assert ended.state == "completed"
    lines = b"".join(b"line %06d\r\n" % number for number in range(LINES))
    assert whole == lines + b"more\r\ngot more\r\n"


def test_what_an_agent_leaves_is_kept_where_asked_for(
    client: Client, shared_server: Server
) -> None:
    done = shared_server.ctl(
        "agent", "spawn", "--name", "k", "--on-exit", "keep", "--wait", "--",
        "sh", "-c", "setsid sleep 300 > /dev/null 2>&1 & echo $!",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    kept = int(output(client, "k"))

    assert b"on exit  keep" in shared_server.ctl("agent", "show", "k").stdout

    ended = client.agent.get(id="k")
    assert ended.outcome is not None
    assert ended.outcome.leftovers == 1
    assert alive(kept)

    # Nobody else would end it.
    client.agent.spawn(spec=sh(f"kill -9 {kept}"))
    gone(kept)


def test_what_was_kept_is_told_and_ends_though_the_keeper_is_killed() -> None:
    leave = sh("setsid sleep 60 > /dev/null 2>&1 & echo $!", on_exit="keep")
    with running() as server, server.client() as client:
        agents = [client.agent.spawn(spec=leave) for _ in range(2)]
        for agent in agents:
            client.agent.wait(id=agent.id)
        kept = sorted(int(output(client, agent.id)) for agent in agents)
        eventually(lambda: len(client.server.health().keeper.strays) == 2, timeout=10)
        strays = client.server.health().keeper.strays
        told = server.ctl("doctor")

        client.agent.remove(id=agents[0].id)
        server.crash_and_restart()
        assert all(map(alive, kept))
        keeper = server.keeper_pid
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        for pid in kept:
            gone(pid)

    assert sorted((stray.pid, stray.command) for stray in strays) == [
        (pid, "sleep 60") for pid in kept
    ]
    assert (told.returncode, told.stderr) == (0, b"")
    assert b"2 processes of no agent: " in told.stdout
    assert b"%d sleep 60" % kept[1] in told.stdout
