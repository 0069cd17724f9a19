"""The verbs that pause, signal, end and remove, over CURVE and real processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
)
from descartesd.wire.agent import AgentInfo, StopSpec
from tests.support.agents import (
    SLEEP,
    carrying,
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
from tests.support.server import Server, gone

# The leader, a tool in a session of its own, and a process nobody is the parent of any more; each
# does what the functions given to it say, with its own name.
FAMILY = """
import os, signal, sys, time
def be(name):
    signal.signal(signal.SIGUSR1, lambda *_: os.write(1, f"{name} heard\\n".encode()))
    os.write(1, f"{name} ready\\n".encode())
    with open(f"{sys.argv[1]}/{name}", "ab", buffering=0) as file:
        while True:
            file.write(b".")
            time.sleep(0.002)
if os.fork() == 0:
    os.setsid()
    be("tool")
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        be("orphan")
    os._exit(0)
os.wait()
be("leader")
"""
MEMBERS = ("leader", "tool", "orphan")


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


@pytest.fixture
def family(client: Client, tmp_path: Path) -> AgentInfo:
    """An agent of three processes that tick."""
    agent = client.agent.spawn(spec=python(FAMILY, str(tmp_path), stop=StopSpec(grace_s=0.5)))
    for member in MEMBERS:
        until_output(client, agent.id, f"{member} ready\n".encode())
    return agent


def sizes(directory: Path) -> list[int]:
    return [(directory / member).stat().st_size for member in MEMBERS]


def test_pause_is_answered_when_nothing_of_the_tree_runs(
    client: Client, family: AgentInfo, tmp_path: Path
) -> None:
    paused = client.agent.pause(id=family.id)
    before = sizes(tmp_path)
    processes = carrying("DESCARTES_AGENT_ID", family.id)
    again = client.agent.pause(id=family.id)
    for _ in range(30):
        client.agent.get(id=family.id)

    assert (paused.state, paused.pause_mode, paused.pid) == ("paused", "tree", family.pid)
    assert again.paused_at == paused.paused_at
    assert len(processes) == 3
    assert all(is_stopped(process.pid) for process in processes)
    assert sizes(tmp_path) == before
    resumed = client.agent.resume(id=family.id)
    assert (resumed.state, resumed.paused_at, resumed.pause_mode) == ("running", None, None)
    eventually(lambda: all(now > then for now, then in zip(sizes(tmp_path), before, strict=True)))
    assert client.agent.resume(id=family.id).state == "running"


def test_cooperative_pause_of_a_command_is_unimplemented(client: Client) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))

    with pytest.raises(UnimplementedError):
        client.agent.pause(id=agent.id, mode="cooperative")


def heard(client: Client, family: AgentInfo, member: str) -> int:
    return output(client, family.id).count(f"{member} heard\n".encode())


def test_signal_reaches_the_whole_tree(client: Client, family: AgentInfo) -> None:
    for times, name in enumerate(("USR1", "SIGUSR1", signal.SIGUSR1.value), 1):
        assert client.agent.signal(id=family.id, signal=name).processes == 3
        eventually(lambda n=times: [heard(client, family, each) for each in MEMBERS] == [n] * 3)

    with pytest.raises(InvalidArgumentError, match="'NONSENSE' is no signal"):
        client.agent.signal(id=family.id, signal="NONSENSE")


def test_stop_sends_the_signal_to_the_whole_tree_and_answers_at_the_end(
    client: Client, family: AgentInfo
) -> None:
    processes = carrying("DESCARTES_AGENT_ID", family.id)

    ended = client.agent.stop(id=family.id)

    assert ended.state == "terminated"
    assert ended.outcome is not None
    assert (ended.outcome.reason, ended.outcome.signal) == ("stopped", signal.SIGTERM)
    for process in processes:
        gone(process.pid)


def test_stop_of_a_paused_agent_lets_it_act_on_the_signal(client: Client) -> None:
    agent = client.agent.spawn(
        spec=sh("trap 'echo bye; exit 5' INT; echo ready; read go", stdin="pipe",
                stop=StopSpec(signal="INT"))
    )  # fmt: skip
    until_output(client, agent.id, b"ready\n")
    client.agent.pause(id=agent.id)

    ended = client.agent.stop(id=agent.id)

    assert ended.outcome is not None
    assert (ended.state, ended.outcome.exit_code) == ("terminated", 5)
    assert output(client, agent.id) == b"ready\nbye\n"


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_kill_ends_the_whole_tree_at_once(client: Client, family: AgentInfo, paused: bool) -> None:
    processes = carrying("DESCARTES_AGENT_ID", family.id)
    if paused:
        client.agent.pause(id=family.id)

    ended = client.agent.kill(id=family.id)

    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason) == ("terminated", "killed")
    assert (ended.paused_at, ended.pause_mode) == (None, None)
    for process in processes:
        gone(process.pid)


def test_what_the_leader_leaves_is_ended_and_counted(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("setsid sleep 300 & sleep 300 & exit 0"))

    ended = client.agent.wait(id=agent.id)
    left = carrying("DESCARTES_AGENT_ID", agent.id)

    assert left == []
    assert ended.state == "completed"
    assert ended.outcome is not None
    assert ended.outcome.leftovers == 2


def test_verbs_ask_for_what_holds_already_in_vain_and_harmlessly(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("exit 3"))
    ended = client.agent.wait(id=agent.id)
    eventually(lambda: client.agent.output(id=agent.id, offset=0).eof)

    for verb in (client.agent.stop, client.agent.kill):
        assert verb(id=agent.id) == ended


Verb = Callable[[Client, str], object]


@pytest.mark.parametrize(
    "verb",
    [
        lambda client, agent: client.agent.pause(id=agent),
        lambda client, agent: client.agent.resume(id=agent),
        lambda client, agent: client.agent.signal(id=agent, signal="USR1"),
        lambda client, agent: client.agent.write(id=agent, data=b"x"),
    ],
    ids=["pause", "resume", "signal", "write"],
)
def test_conflict_with_an_ended_agent_names_its_state(client: Client, verb: Verb) -> None:
    agent = client.agent.spawn(spec=sh("exit 1", stdin="pipe"))
    client.agent.wait(id=agent.id)

    with pytest.raises(ConflictError, match="is failed") as caught:
        verb(client, agent.id)

    details = caught.value.details or {}
    assert details["state"] == "failed"
    assert "running" in details["allowed"]


def test_pause_of_a_stopping_agent_is_a_conflict(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("trap '' TERM; echo ready; while :; do sleep 1; done"))
    until_output(client, agent.id, b"ready\n")
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(client.agent.stop, id=agent.id, grace_s=0.5)
        until_state(client, agent.id, "stopping")
        with pytest.raises(ConflictError, match="is stopping") as caught:
            client.agent.pause(id=agent.id)
        ended = stopping.result()

    assert (caught.value.details or {})["state"] == "stopping"
    assert ended.state == "terminated"


def test_remove_forgets_an_ended_agent_and_refuses_a_living_one(
    client: Client, shared_server: Server
) -> None:
    agent = client.agent.spawn(spec=sh("echo text; read go", stdin="pipe", name="short"))
    until_output(client, agent.id, b"text\n")
    with pytest.raises(
        ConflictError, match="is running: remove needs an agent that has ended"
    ) as caught:
        client.agent.remove(id=agent.id)
    client.agent.kill(id=agent.id)

    client.agent.remove(id="short", idem="remove-1")
    client.agent.remove(id="short", idem="remove-1")

    assert (caught.value.details or {})["state"] == "running"
    assert not list((shared_server.directory / "state" / "output").glob(f"{agent.id}*"))
    for verb in (client.agent.get, client.agent.output, client.agent.remove, client.agent.wait):
        with pytest.raises(NotFoundError):
            verb(id=agent.id)
