"""An agent whose main thread has exited before the others: to /proc it is a zombie, and it runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from descartesd.client import Client
from descartesd.wire.agent import AgentInfo
from tests.support.agents import left_empty, python, until_output
from tests.support.eventually import eventually
from tests.support.server import Server, gone

# What a C program does that ends its main function by pthread_exit(3).
TICKER = """
import ctypes, os, threading, time
def tick():
    while True:
        os.write(1, b"tick\\n")
        time.sleep(0.01)
threading.Thread(target=tick).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


@pytest.fixture
def ticker(client: Client) -> Iterator[AgentInfo]:
    """An agent only the second thread of which runs."""
    agent = client.agent.spawn(spec=python(TICKER))
    until_output(client, agent.id, b"tick\n" * 3)
    assert agent.pid is not None
    eventually(lambda: thread_states(agent)[0] == "Z")
    yield agent
    if psutil.pid_exists(agent.pid):
        os.kill(agent.pid, signal.SIGKILL)


def thread_states(agent: AgentInfo) -> str:
    """The state letter of each thread, the main one first."""
    directory = f"/proc/{agent.pid}/task"
    letters = ""
    for thread in sorted(os.listdir(directory), key=int):
        with open(f"{directory}/{thread}/stat", encoding="utf-8") as file:
            letters += file.read().rpartition(") ")[2][0]
    return letters


def test_pause_is_answered_when_no_thread_runs_and_resume_lets_it_go_on(
    client: Client, ticker: AgentInfo
) -> None:
    paused = client.agent.pause(id=ticker.id)
    states = thread_states(ticker)
    written = client.agent.get(id=ticker.id).output.stdout.total
    client.agent.resume(id=ticker.id)

    assert paused.state == "paused"
    assert states == "ZT"
    eventually(lambda: client.agent.get(id=ticker.id).output.stdout.total > written)


def test_signal_reaches_it(client: Client, ticker: AgentInfo) -> None:
    assert client.agent.signal(id=ticker.id, signal="USR1").processes == 1

    ended = client.agent.wait(id=ticker.id, deadline_s=5)

    assert ended.outcome is not None
    assert ended.outcome.signal == signal.SIGUSR1


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_it_can_be_ended(client: Client, ticker: AgentInfo, verb: str) -> None:
    ended = getattr(client.agent, verb)(id=ticker.id, deadline_s=5)

    assert ended.state == "terminated"
    gone(ticker.pid or 0)
