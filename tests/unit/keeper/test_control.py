"""Pause, resume, signal, stop, kill and fence, against a real keeper and real trees."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import cast

import pytest

from descartesd.errors import ConflictError, DescartesError, NotFoundError
from descartesd.keeper import control
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Groups
from descartesd.keeper.control import Control
from descartesd.keeper.loop import Loop, boottime
from descartesd.keeper.output import Pump
from descartesd.keeper.procfs import Process
from descartesd.keeper.server import Request
from descartesd.keeper.tree import Tree
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Client, Keeper, alive, state

# Starts one tool in its own session and one daemon (double fork), prints their pids.
TREE = """
import os, sys, time
def run():
    while True: time.sleep(0.01)
tool = os.fork()
if tool == 0:
    os.setsid(); run()
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    daemon = os.fork()
    if daemon == 0: run()
    os.write(w, str(daemon).encode()); os._exit(0)
daemon = os.read(r, 20).decode()
os.wait()
print(tool, daemon, flush=True)
%s
"""

# Five processes of constant number and ever new pids: each forks its successor and exits.
HOPPERS = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        while True:
            os.write(1, b'.')
            if os.fork(): os._exit(0)
            time.sleep(0.005)
os.write(1, b'ready')
while True:
    try: os.wait()
    except OSError: time.sleep(1)
"""


def start_tree(keeper: Keeper, last: str = "run()") -> tuple[str, list[int]]:
    agent_id = keeper.spawn(*PYTHON, TREE % last)
    pids = keeper.wait_out(agent_id, b"\n").split()
    status = keeper.status(agent_id)
    assert status is not None
    return agent_id, [status["pid"], *map(int, pids)]


def test_pause_reaches_tools_and_daemons_and_resume_wakes_them(keeper: Keeper) -> None:
    agent_id, pids = start_tree(keeper)

    keeper.ask("pause", agent_id=agent_id)
    paused = [state(pid) for pid in pids]
    status = keeper.status(agent_id)
    keeper.ask("resume", agent_id=agent_id)

    assert paused == ["T", "T", "T"]
    assert status is not None
    assert status["state"] == "paused"
    assert abs(status["paused_at"] - time.time()) < 5
    assert all(state(pid) != "T" for pid in pids)
    status = keeper.status(agent_id)
    assert status is not None
    assert (status["state"], status["paused_at"]) == ("running", None)


def test_pause_stops_every_thread(keeper: Keeper) -> None:
    script = (
        "import threading, time\n"
        "def run():\n"
        "    while True: sum(range(1000))\n"
        "for _ in range(4): threading.Thread(target=run).start()\n"
        "print('ready', flush=True)"
    )
    agent_id = keeper.spawn(*PYTHON, script)
    keeper.wait_out(agent_id, b"ready")
    status = keeper.status(agent_id)
    assert status is not None

    keeper.ask("pause", agent_id=agent_id)

    def ticks() -> list[str]:
        with open(f"/proc/{status['pid']}/stat") as file:
            return file.read().rpartition(")")[2].split()[11:13]

    before = ticks()
    Event().wait(0.05)
    assert ticks() == before


def test_pause_of_a_paused_and_resume_of_a_running_agent_change_nothing(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60")

    keeper.ask("resume", agent_id=agent_id)
    keeper.ask("pause", agent_id=agent_id)
    first = keeper.status(agent_id)
    keeper.ask("pause", agent_id=agent_id)

    assert keeper.status(agent_id) == first


def settled_output(keeper: Keeper, agent_id: str) -> bytes:
    """What an agent wrote, if it writes no more; nothing while it does."""
    before = keeper.out(agent_id)
    Event().wait(0.02)
    return before if keeper.out(agent_id) == before else b""


def test_nothing_forked_during_a_pause_escapes(keeper: Keeper) -> None:
    agent_id = keeper.spawn(*PYTHON, HOPPERS)
    keeper.wait_out(agent_id, b"ready")

    for _ in range(8):
        keeper.ask("pause", agent_id=agent_id)
        # What was in the pipe when the answer came may still be under way.
        settled = eventually(lambda: settled_output(keeper, agent_id))
        Event().wait(0.05)
        assert keeper.out(agent_id) == settled
        keeper.ask("resume", agent_id=agent_id)
        keeper.wait_out(agent_id, settled + b"." * 10)


class RestlessTree(Tree):
    """A tree in which every look finds another process, as fast as one may look."""

    def __init__(self, loop: Loop, agents: Agents) -> None:
        super().__init__(loop, agents, Groups())
        self.sent: list[tuple[int, int]] = []

    def walk(self, _agent: Agent) -> Iterator[Process]:
        yield Process(len(self.sent) + 1, 1, 1, 1, 1, "R", 1)

    def signal(self, _agent: Agent, process: Process, signum: int) -> bool:
        self.sent.append((process.pid, signum))
        return True


def test_pause_that_cannot_be_completed_is_undone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(control, "PAUSE_LIMIT_S", 0.05)
    loop, agents = Loop(), Agents()
    tree = RestlessTree(loop, agents)
    agent = Agent(Pump(loop, str(tmp_path), print), "a1")
    agent.state = "running"
    answers: list[DescartesError] = []

    def fail(error: DescartesError) -> None:
        answers.append(error)
        loop.stop()

    request = cast("Request", SimpleNamespace(fail=fail))

    Control(loop, agents, tree).pause(agent, request)
    loop.run()
    loop.close()

    assert answers[0].code == "deadline_exceeded"
    assert answers[0].message.startswith("process ")
    assert "of agent 'a1' still ran after 0.05 s" in answers[0].message
    assert agent.state == "running"
    assert tree.sent[-1][1] == signal.SIGCONT
    assert {signum for _, signum in tree.sent[:-1]} == {signal.SIGSTOP}


def test_pause_needs_a_running_agent(keeper: Keeper) -> None:
    agent_id = keeper.spawn("true")
    keeper.eof(agent_id)

    with pytest.raises(ConflictError, match="has exited: pause needs a running one"):
        keeper.ask("pause", agent_id=agent_id)
    with pytest.raises(ConflictError, match="has exited: resume needs a running one"):
        keeper.ask("resume", agent_id=agent_id)
    with pytest.raises(ConflictError, match="has exited: signal needs a running one"):
        keeper.ask("signal", agent_id=agent_id, signal=15)
    with pytest.raises(NotFoundError, match="no agent 'nobody'"):
        keeper.ask("pause", agent_id="nobody")


def test_resume_overtakes_a_pause_under_way(keeper: Keeper) -> None:
    agent_id = keeper.spawn(*PYTHON, HOPPERS)
    keeper.wait_out(agent_id, b"ready")

    pause = keeper.client.begin("pause", agent_id=agent_id)
    resume = keeper.client.begin("resume", agent_id=agent_id)
    keeper.client.end(resume)
    try:
        keeper.client.end(pause)
    except ConflictError as error:
        assert "resumed meanwhile" in error.message  # noqa: PT017 - it may have won the race

    status = keeper.status(agent_id)
    assert status is not None
    assert status["state"] == "running"
    written = len(keeper.out(agent_id))
    eventually(lambda: len(keeper.out(agent_id)) > written + 10)


def test_signal_reaches_the_whole_tree_unchanged(keeper: Keeper) -> None:
    script = (
        "trap 'echo leader' USR1; "
        "setsid sh -c \"trap 'echo tool; exit' USR1; echo up; while :; do sleep 0.02; done\" & "
        "wait $!; wait $!; exit 7"
    )
    agent_id = keeper.spawn("sh", "-c", script)
    keeper.wait_out(agent_id, b"up\n")

    keeper.ask("signal", agent_id=agent_id, signal=signal.SIGUSR1)

    ended = keeper.exited(agent_id)
    assert (ended["exit_code"], ended["ended_by"]) == (7, None)
    keeper.eof(agent_id)
    assert b"tool\n" in keeper.out(agent_id)
    assert b"leader\n" in keeper.out(agent_id)


def test_continue_signal_ends_a_pause(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60")
    keeper.ask("pause", agent_id=agent_id)

    keeper.ask("signal", agent_id=agent_id, signal=signal.SIGCONT)

    status = keeper.status(agent_id)
    assert status is not None
    assert (status["state"], status["paused_at"]) == ("running", None)


def test_stop_uses_the_signal_asked_for_and_says_so(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "trap 'exit 5' INT; echo up; while :; do sleep 0.02; done")
    keeper.wait_out(agent_id, b"up")

    keeper.ask("stop", agent_id=agent_id, signal=signal.SIGINT, grace_s=5.0)
    ended = keeper.exited(agent_id)

    assert (ended["exit_code"], ended["signal"], ended["ended_by"]) == (5, None, "stop")


def test_stop_defaults_to_the_agents_own_signal(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60", stop={"signal": signal.SIGUSR2, "grace_s": 5.0})

    keeper.ask("stop", agent_id=agent_id)

    assert keeper.exited(agent_id)["signal"] == signal.SIGUSR2


def test_stop_escalates_to_kill_after_grace(keeper: Keeper) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.02; done"
    agent_id = keeper.spawn("sh", "-c", script)
    keeper.wait_out(agent_id, b"up")

    began = time.monotonic()
    keeper.ask("stop", agent_id=agent_id, signal=signal.SIGTERM, grace_s=0.2)
    answered = time.monotonic() - began
    status = keeper.status(agent_id)
    ended = keeper.exited(agent_id)

    assert answered < 0.15
    assert status is not None
    assert (status["state"], status["ended_by"]) == ("stopping", "stop")
    assert 0.2 <= time.monotonic() - began < 3
    assert (ended["signal"], ended["ended_by"]) == (signal.SIGKILL, "stop")
    assert ended["leftovers"] == 0


def test_stop_wakes_a_paused_agent_so_that_it_can_end(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep 0.02; done")
    keeper.wait_out(agent_id, b"up")
    keeper.ask("pause", agent_id=agent_id)

    keeper.ask("stop", agent_id=agent_id)

    assert keeper.exited(agent_id)["exit_code"] == 4


def test_stop_reaches_all_before_the_leaders_end_hides_its_children(keeper: Keeper) -> None:
    script = "for i in 1 2 3 4; do setsid sleep 60 & done; echo up; exec sleep 60"
    for _ in range(5):
        agent_id = keeper.spawn("sh", "-c", script)
        keeper.wait_out(agent_id, b"up")

        keeper.ask("stop", agent_id=agent_id)

        assert keeper.exited(agent_id)["signal"] == signal.SIGTERM
        assert keeper.eof(agent_id)["leftovers"] == 0


def test_later_stop_with_another_signal_sends_it(keeper: Keeper) -> None:
    agent_id = keeper.spawn(
        "sh", "-c", "trap '' TERM; trap 'exit 5' INT; echo up; while :; do sleep 0.02; done"
    )
    keeper.wait_out(agent_id, b"up")
    keeper.ask("stop", agent_id=agent_id, signal=signal.SIGTERM, grace_s=60.0)

    keeper.ask("stop", agent_id=agent_id, signal=signal.SIGINT, grace_s=60.0)

    ended = keeper.exited(agent_id)
    assert (ended["exit_code"], ended["ended_by"]) == (5, "stop")


def test_later_stop_brings_the_kill_nearer_but_never_puts_it_off(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done")
    keeper.wait_out(agent_id, b"up")
    began = time.monotonic()

    for grace_s in (60.0, 0.2, 60.0):
        keeper.ask("stop", agent_id=agent_id, grace_s=grace_s)

    ended = keeper.exited(agent_id)
    assert 0.2 <= time.monotonic() - began < 3
    assert (ended["signal"], ended["ended_by"], ended["leftovers"]) == (9, "stop", 0)


def test_stopping_agent_takes_neither_pause_nor_resume_but_a_kill(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done")
    keeper.wait_out(agent_id, b"up")
    keeper.ask("stop", agent_id=agent_id, signal=signal.SIGTERM, grace_s=60.0)

    with pytest.raises(ConflictError, match="is stopping: pause needs"):
        keeper.ask("pause", agent_id=agent_id)
    with pytest.raises(ConflictError, match="is stopping: resume needs"):
        keeper.ask("resume", agent_id=agent_id)
    keeper.ask("kill", agent_id=agent_id)
    assert keeper.exited(agent_id)["ended_by"] == "kill"


def test_stop_and_kill_of_an_exited_agent_change_nothing(keeper: Keeper) -> None:
    agent_id = keeper.spawn("true")
    keeper.eof(agent_id)
    before = keeper.status(agent_id)

    assert keeper.ask("stop", agent_id=agent_id) == {}
    assert keeper.ask("kill", agent_id=agent_id) == {}

    assert keeper.status(agent_id) == before


def test_kill_reaches_tools_and_daemons(keeper: Keeper) -> None:
    agent_id, pids = start_tree(keeper)

    keeper.ask("kill", agent_id=agent_id)
    ended = keeper.exited(agent_id)
    keeper.eof(agent_id)

    assert (ended["signal"], ended["ended_by"], ended["leftovers"]) == (9, "kill", 0)
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_kill_ends_a_paused_tree(keeper: Keeper) -> None:
    agent_id, pids = start_tree(keeper)
    keeper.ask("pause", agent_id=agent_id)

    keeper.ask("kill", agent_id=agent_id)
    keeper.exited(agent_id)

    eventually(lambda: not any(alive(pid) for pid in pids))


def test_kill_catches_what_forks_all_the_time(keeper: Keeper) -> None:
    agent_id = keeper.spawn(*PYTHON, HOPPERS)
    keeper.wait_out(agent_id, b"ready")

    keeper.ask("kill", agent_id=agent_id)
    keeper.exited(agent_id)
    keeper.eof(agent_id)

    total = len(keeper.out(agent_id))
    Event().wait(0.05)
    assert len(keeper.out(agent_id)) == total


def test_what_the_leader_leaves_is_ended_and_counted(keeper: Keeper) -> None:
    agent_id, pids = start_tree(keeper, last="os._exit(0)")

    ended = keeper.exited(agent_id)
    left = [pid for pid in pids if alive(pid)]

    assert (ended["exit_code"], ended["ended_by"], ended["leftovers"]) == (0, None, 2)
    assert left == []
    keeper.eof(agent_id)


def test_end_is_told_with_the_number_of_all_that_was_left(keeper: Keeper) -> None:
    # More than one step of the keeper deals with, each in a session of its own.
    script = "for i in $(seq 150); do setsid sleep 300 & done; exit 0"
    agent_id = keeper.spawn("sh", "-c", script)

    assert keeper.exited(agent_id)["leftovers"] == 150
    keeper.eof(agent_id)


def test_child_without_environment_in_the_leaders_session_is_found(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "env -i sleep 60 & echo $!")
    ended = keeper.exited(agent_id)
    keeper.eof(agent_id)

    assert ended["leftovers"] == 1
    eventually(lambda: not alive(int(keeper.out(agent_id))))


def test_exit_answers_a_pause_that_waits(keeper: Keeper) -> None:
    agent_id = keeper.spawn(*PYTHON, HOPPERS)
    keeper.wait_out(agent_id, b"ready")

    requests = [keeper.client.begin("pause", agent_id=agent_id) for _ in range(2)]
    kill = keeper.client.begin("kill", agent_id=agent_id)
    keeper.client.end(kill)
    for request in requests:
        try:
            keeper.client.end(request)
        except ConflictError as error:
            assert "killed meanwhile" in error.message  # noqa: PT017 - it may have won the race

    keeper.exited(agent_id)


def test_fence_kills_at_its_deadline_unless_renewed(keeper: Keeper) -> None:
    renewed = keeper.spawn("sleep", "60")
    cleared = keeper.spawn("sleep", "60")
    fenced = keeper.spawn("sleep", "60")

    deadline = boottime() + 0.3
    for agent_id in (renewed, cleared, fenced):
        keeper.ask("fence", agent_id=agent_id, deadline=deadline)
    keeper.ask("fence", agent_id=renewed, deadline=deadline + 600)
    keeper.ask("fence", agent_id=cleared, deadline=None)
    ended = keeper.exited(fenced)

    assert 0 <= boottime() - deadline < 1
    assert (ended["signal"], ended["ended_by"]) == (9, "fence")
    for agent_id in (renewed, cleared):
        status = keeper.status(agent_id)
        assert status is not None
        assert status["state"] == "running"


def test_earlier_fence_replaces_a_later_one_and_a_past_one_acts_at_once(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60")
    keeper.ask("fence", agent_id=agent_id, deadline=boottime() + 600)

    keeper.ask("fence", agent_id=agent_id, deadline=boottime() - 1)

    assert keeper.exited(agent_id)["ended_by"] == "fence"


def test_pause_goes_on_when_the_daemon_is_replaced(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("sleep", "60")
    keeper.client.begin("pause", agent_id=agent_id)
    keeper.client.close()

    keeper.client = Client(keeper.socket)

    eventually(lambda: (keeper.status(agent_id) or {})["state"] == "paused")
