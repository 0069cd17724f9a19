"""Exit facts: exact, prompt, and never mixed up, against a real keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from descartesd.keeper import wait
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Groups
from descartesd.keeper.control import Control
from descartesd.keeper.loop import Loop
from descartesd.keeper.output import Pump
from descartesd.keeper.server import Server
from descartesd.keeper.tree import Tree
from descartesd.keeper.wait import Reaper
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Client, Gate, Keeper, alive


def test_every_exit_code_is_exact(keeper: Keeper) -> None:
    ids = {code: keeper.spawn("sh", "-c", f"exit {code}") for code in range(0, 256, 15)}

    for code, agent_id in ids.items():
        ended = keeper.exited(agent_id)
        assert (ended["exit_code"], ended["signal"], ended["state"]) == (code, None, "exited")
        assert ended["ended_at"] >= ended["started_at"]


def test_every_deadly_signal_is_exact(keeper: Keeper) -> None:
    harmless = {
        signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
        signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH,
    }  # fmt: skip
    deadly = [number for number in range(1, 65) if number not in harmless | {32, 33}]
    ids = {number: keeper.spawn("sleep", "60", cwd=keeper.output) for number in deadly}

    for number, agent_id in ids.items():
        keeper.ask("signal", agent_id=agent_id, signal=number)

    for number, agent_id in ids.items():
        ended = keeper.exited(agent_id)
        assert (ended["exit_code"], ended["signal"]) == (None, number)


def test_five_hundred_exits_at_once_are_all_exact(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    codes = {}
    gate = Gate(keeper.directory)
    for number in range(500):
        script = f"{gate.wait_there}; exit {number % 250}"
        codes[keeper.spawn("sh", "-c", script)] = number % 250

    gate.open_until(lambda: not keeper.children())

    for agent_id, code in codes.items():
        ended = keeper.exited(agent_id)
        assert (ended["exit_code"], ended["signal"], ended["leftovers"]) == (code, None, 0)
        keeper.eof(agent_id)
    assert keeper.children() == []


def test_two_hundred_kills_at_once_are_all_exact(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    ids = [keeper.spawn("sleep", "60") for _ in range(200)]

    requests = [keeper.client.begin("kill", agent_id=agent_id) for agent_id in ids[:100]]
    for request in requests:
        keeper.client.end(request)
    for agent_id in ids[100:]:
        keeper.ask("kill", agent_id=agent_id)

    for agent_id in ids:
        assert keeper.exited(agent_id)["signal"] == signal.SIGKILL


def test_exit_is_told_at_once_though_a_grandchild_holds_the_output(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    # Nothing tells whose the grandchild is, so it is not ended with the agent.
    script = "env -i setsid sh -c '(sleep 60; echo late) & echo early'; exit 3"
    agent_id = keeper.spawn("sh", "-c", script)

    ended = keeper.exited(agent_id)
    told = time.time()
    last = keeper.eof(agent_id)

    assert ended["exit_code"] == 3
    assert told - ended["ended_at"] < 0.1
    assert ended["eof"] is False
    assert last["eof"] is True
    assert 1.5 < time.time() - last["ended_at"] < 4
    assert keeper.out(agent_id) == b"early\n"


class CountingLate(Control):
    """One that takes its time to find out how many a leader has left."""

    def sweep(self, agent: Agent) -> None:
        agent.leftovers = 1


def test_end_that_cannot_be_counted_in_time_is_told_and_told_again_when_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wait, "COUNT_LIMIT_S", 0.02)
    loop, agents = Loop(), Agents()
    tree = Tree(loop, agents, Groups())
    told: list[tuple[str, str, int, bool]] = []
    agent = Agent(Pump(loop, str(tmp_path), print), "a1")

    def tell(event: str, of: Agent) -> None:
        told.append((event, of.state, of.leftovers, of.is_swept))
        if not of.is_swept:
            of.leftovers = 2
            of.is_swept = True
            assert of.on_swept is not None
            of.on_swept()
            loop.stop()

    server = cast("Server", SimpleNamespace(tell=tell))
    reaper = Reaper(loop, agents, tree, CountingLate(loop, agents, tree), server=server)
    child = subprocess.Popen(["true"])
    agent.begin(1, child.pid, os.pidfd_open(child.pid), 1)
    agents.add(agent)
    reaper.expect(agent)

    loop.run()
    loop.close()
    child.returncode = 0

    assert told == [
        ("exited", "exited", 1, False),
        ("exited", "exited", 2, True),
        ("eof", "exited", 2, True),
        ("eof", "exited", 2, True),
    ]


def test_leftover_that_holds_the_output_is_ended_and_the_output_complete(keeper: Keeper) -> None:
    script = "setsid sh -c 'echo tool; exec sleep 60' & sleep 0.1; echo leader"
    agent_id = keeper.spawn("sh", "-c", script)

    ended = keeper.exited(agent_id)
    keeper.eof(agent_id)

    assert time.time() - ended["ended_at"] < 1
    assert keeper.out(agent_id) == b"tool\nleader\n"


def test_output_closed_early_is_no_end(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "exec >/dev/null 2>&1; echo up > up; exec sleep 60",
                            cwd=str(keeper.directory))  # fmt: skip
    eventually((keeper.directory / "up").exists)
    status = keeper.status(agent_id)
    assert status is not None
    assert (status["state"], status["eof"]) == ("running", False)

    keeper.ask("kill", agent_id=agent_id)

    assert keeper.exited(agent_id)["eof"] is True
    keeper.eof(agent_id)


def test_orphans_are_reaped_while_their_agent_runs(keeper: Keeper) -> None:
    script = "for i in 1 2 3 4 5; do (sh -c 'exit 1' & ) ; done; echo done; exec sleep 60"
    agent_id = keeper.spawn("sh", "-c", script)
    keeper.wait_out(agent_id, b"done")
    status = keeper.status(agent_id)
    assert status is not None

    eventually(lambda: keeper.children() == [status["pid"]])
    assert status["state"] == "running"


def test_exits_without_a_daemon_are_in_the_list_of_the_next_one(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn(*PYTHON, "import sys, time; time.sleep(0.1); print('x'); sys.exit(9)")
    keeper.client.close()

    eventually(lambda: keeper.out(agent_id) == b"x\n")
    keeper.client = Client(keeper.socket)
    status = eventually(lambda: found if (found := keeper.status(agent_id) or {})["eof"] else {})

    assert (status["state"], status["exit_code"], status["totals"]["stdout"]) == ("exited", 9, 2)
    assert not alive(status["pid"])
