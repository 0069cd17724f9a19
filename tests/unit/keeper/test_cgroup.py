"""A keeper with control groups of its own: pause, kill, leftovers, and what a dead one leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from descartesd.errors import UnimplementedError
from descartesd.keeper.cgroup import Groups, find_groups
from tests.support.eventually import eventually
from tests.support.groups import agents_in, control_group, join
from tests.unit.keeper.harness import PYTHON, Keeper, alive

# Forks twice into sessions of its own, forgets its environment, and goes on for ever.
RUNAWAY = (
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        os.write(1, b'%d\\n' % os.getpid())\n"
    "        os.execve('/bin/sleep', ['sleep', '300'], {})\n"
    "    os._exit(0)\n"
    "os.wait()\n"
    "time.sleep(300)\n"
)
TICKING = "while :; do :; done"


@pytest.fixture
def group() -> Iterator[Path]:
    with control_group() as made:
        yield made


@pytest.fixture
def grouped(group: Path) -> Iterator[Keeper]:
    """A keeper that is alone in a group; it leaves no group of an agent."""
    keeper = Keeper(prepare=partial(join, group))
    try:
        yield keeper
    finally:
        keeper.close()
    assert agents_in(group) == []


def used_us(group: Path, agent_id: str) -> int:
    """The processor time an agent's group has had."""
    stat = (group / f"agent-{agent_id}.1" / "cpu.stat").read_text()
    return int(stat.split()[1])


def test_keeper_moves_aside_and_gives_each_agent_a_group(group: Path, grouped: Keeper) -> None:
    agent_id = grouped.spawn("sh", "-c", "cat /proc/self/cgroup; sleep 60")

    assert "cgroup" in grouped.ask("hello", version="1.0")["features"]
    assert (group / "cgroup.procs").read_text() == ""
    assert (group / "keeper" / "cgroup.procs").read_text() == f"{grouped.process.pid}\n"
    assert agents_in(group) == [f"agent-{agent_id}.1"]
    assert f"/agent-{agent_id}.1\n".encode() in grouped.wait_out(agent_id, b"0::")
    assert (grouped.status(agent_id) or {})["pause_mode"] == "cgroup"


def test_reexecuted_keeper_has_its_groups(group: Path, grouped: Keeper) -> None:
    script = "setsid sh -c 'while :; do sleep 1; done' & trap '' TERM; while :; do sleep 0.05; done"
    agent_id = grouped.spawn("sh", "-c", script)
    paused = grouped.spawn("sleep", "300")
    grouped.ask("pause", agent_id=paused)

    assert "cgroup" in grouped.ask("reexec")["features"]

    assert (group / "keeper" / "cgroup.procs").read_text() == f"{grouped.process.pid}\n"
    assert (grouped.status(paused) or {})["state"] == "paused"
    assert (group / f"agent-{paused}.1" / "cgroup.freeze").read_text() == "1\n"
    assert grouped.ask("pause", agent_id=agent_id) == {"mode": "cgroup"}
    for each in (agent_id, paused):
        grouped.ask("kill", agent_id=each)
        assert grouped.exited(each)["signal"] == signal.SIGKILL
    assert agents_in(group) == []
    third = grouped.spawn("sleep", "300")
    assert agents_in(group) == [f"agent-{third}.1"]


def test_pause_stands_still_and_resume_goes_on(group: Path, grouped: Keeper) -> None:
    agent_id = grouped.spawn("sh", "-c", f"setsid sh -c '{TICKING}' & {TICKING}")
    eventually(lambda: used_us(group, agent_id) > 10_000)

    assert grouped.ask("pause", agent_id=agent_id) == {"mode": "cgroup"}
    before = used_us(group, agent_id)
    time.sleep(0.2)
    assert used_us(group, agent_id) == before
    assert grouped.ask("pause", agent_id=agent_id) == {"mode": "cgroup"}
    assert (grouped.status(agent_id) or {})["state"] == "paused"

    assert grouped.ask("resume", agent_id=agent_id) == {}
    eventually(lambda: used_us(group, agent_id) > before)
    grouped.ask("pause", agent_id=agent_id)
    grouped.ask("signal", agent_id=agent_id, signal=signal.SIGCONT)
    assert (grouped.status(agent_id) or {})["state"] == "running"
    frozen = used_us(group, agent_id)
    eventually(lambda: used_us(group, agent_id) > frozen)


@pytest.mark.parametrize("verb", ["kill", "stop"])
def test_paused_agent_can_be_ended_at_once(grouped: Keeper, verb: str) -> None:
    agent_id = grouped.spawn("sh", "-c", "trap 'exit 7' TERM; sleep 300 & echo on; wait")
    grouped.wait_out(agent_id, b"on")
    grouped.ask("pause", agent_id=agent_id)
    began = time.monotonic()

    grouped.ask(verb, agent_id=agent_id)

    ended = grouped.exited(agent_id)
    assert time.monotonic() - began < 1
    assert (ended["exit_code"], ended["signal"]) == ((None, 9) if verb == "kill" else (7, None))


def test_runaway_descendant_dies_with_its_agent_and_is_counted(
    group: Path, grouped: Keeper
) -> None:
    agent_id = grouped.spawn(*PYTHON, RUNAWAY)
    runaway = int(grouped.wait_out(agent_id, b"\n"))

    assert grouped.ask("strays") == {"strays": []}
    os.kill((grouped.status(agent_id) or {})["pid"], signal.SIGKILL)

    assert grouped.exited(agent_id)["leftovers"] == 1
    eventually(lambda: not alive(runaway))
    eventually(lambda: agents_in(group) == [])


def test_pause_against_kill_leaves_nothing(group: Path, grouped: Keeper) -> None:
    for _ in range(20):
        agent_id = grouped.spawn("sh", "-c", f"sleep 300 & {TICKING}")
        asked = [
            grouped.client.begin(op, agent_id=agent_id)
            for op in ("pause", "resume", "pause", "kill")
        ]
        grouped.exited(agent_id)
        grouped.client.end(asked[-1])
        eventually(lambda: agents_in(group) == [], timeout=2)
        for each in asked[:-1]:
            grouped.client.replies.pop(each, None)


def test_agent_started_again_runs_though_it_died_frozen(group: Path, grouped: Keeper) -> None:
    agent_id = grouped.spawn("sleep", "300")
    grouped.ask("pause", agent_id=agent_id)
    grouped.ask("kill", agent_id=agent_id)
    grouped.exited(agent_id)
    # What a start that failed halfway would have left.
    (group / f"agent-{agent_id}.2").mkdir()
    (group / f"agent-{agent_id}.2" / "cgroup.freeze").write_text("1")

    grouped.spawn("echo", "again", agent_id=agent_id, attempt=2)

    assert grouped.exited(agent_id)["exit_code"] == 0


def test_fork_bomb_dies_at_once_and_the_others_live(group: Path, grouped: Keeper) -> None:
    bystander = grouped.spawn("sleep", "300")
    # Bounded, as the host may have no controller for tasks: 30 at a time, each soon replaced.
    agent_id = grouped.spawn(
        *PYTHON,
        "import os, time\n"
        "for _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        while not os.fork():\n"
        "            time.sleep(0.01)\n"
        "        os._exit(0)\n"
        "os.write(1, b'full')\n"
        "time.sleep(300)\n",
    )
    grouped.wait_out(agent_id, b"full")
    began = time.monotonic()

    grouped.ask("kill", agent_id=agent_id)

    grouped.exited(agent_id)
    eventually(lambda: agents_in(group) == [f"agent-{bystander}.1"])
    assert time.monotonic() - began < 1
    assert (grouped.status(bystander) or {})["state"] == "running"


def test_what_a_killed_keeper_leaves_is_ended_by_the_next(
    group: Path, make_keeper: Callable[..., Keeper]
) -> None:
    killed = make_keeper(prepare=partial(join, group))
    agent_id = killed.spawn(*PYTHON, RUNAWAY)
    runaway = int(killed.wait_out(agent_id, b"\n"))
    leader = (killed.status(agent_id) or {})["pid"]
    members = group / f"agent-{agent_id}.1" / "cgroup.procs"
    eventually(lambda: len(members.read_text().split()) == 2)
    killed.ask("pause", agent_id=agent_id)
    killed.process.kill()
    killed.wait()
    # No process may be put beside groups for which controllers are enabled (cgroups(7)).
    for controller in (group / "cgroup.subtree_control").read_text().split():
        (group / "cgroup.subtree_control").write_text(f"-{controller}")

    following = make_keeper(prepare=partial(join, group))
    # Without an environment, and of nobody's session: the group alone tells whose it is.
    eventually(lambda: not alive(runaway) and not alive(leader))
    lost = {"agent_id": agent_id, "pid": leader, "start_time": 1}

    assert following.ask("recover", agents=[lost]) == {"ended": 2}
    eventually(lambda: agents_in(group) == [])
    assert following.ask("recover", agents=[lost]) == {"ended": 0}


def test_group_shared_with_others_is_left_alone(
    group: Path, make_keeper: Callable[..., Keeper]
) -> None:
    other = subprocess.Popen(["sleep", "300"], preexec_fn=partial(join, group))  # noqa: PLW1509
    keeper = make_keeper(prepare=partial(join, group))
    agent_id = keeper.spawn("sleep", "300")

    assert "cgroup" not in keeper.ask("hello", version="1.0")["features"]
    assert (keeper.status(agent_id) or {})["pause_mode"] == "tree"
    assert agents_in(group) == []
    other.kill()
    other.wait()


def test_use_is_read_from_the_group(grouped: Keeper) -> None:
    agent_id = grouped.spawn("sh", "-c", f"sleep 300 & {TICKING}")

    def use() -> list[float]:
        found = grouped.ask("usage", agent_ids=[agent_id, "unknown"])["usage"]
        assert list(found) == [agent_id]
        return list(found[agent_id])

    def is_whole(found: list[float]) -> bool:
        return found[1] > 0.05 and found[2] == 2

    memory, cpu_seconds, _ = eventually(lambda: each if is_whole(each := use()) else None)
    assert memory > 100_000
    assert cpu_seconds < 10


def test_limits_of_controllers_the_group_has_not_are_refused_by_name(
    group: Path, grouped: Keeper
) -> None:
    # It listens before it has claimed its group.
    grouped.ask("hello", version="1.0")
    there = set((group / "cgroup.subtree_control").read_text().split())
    for name, controller in (("memory_bytes", "memory"), ("cpu_percent", "cpu"), ("tasks", "pids")):
        if controller in there:
            continue
        with pytest.raises(UnimplementedError, match=f"limits.{name}: .* no controller"):
            grouped.spawn("true", limits={name: 1 << 20})
        ended = grouped.run("true", limits={name: 1 << 20, "best_effort": True})
        assert ended["limits_enforced"] == {name: False}


def test_this_process_has_no_group_of_its_own() -> None:
    groups = find_groups()
    groups.claim()

    assert not groups
    assert groups.agent_of(os.getpid()) is None
    assert Groups().controllers == frozenset()
