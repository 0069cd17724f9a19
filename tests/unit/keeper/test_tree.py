"""Finding an agent's processes, in a process of its own that is their reaper."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from descartesd.keeper import procfs
from descartesd.keeper.tree import signal_process
from tests.unit.keeper.harness import Keeper, alive

LOOK = """
import os, subprocess, sys, time
from descartesd.keeper import kernel, procfs, tree
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Groups
from descartesd.keeper.loop import Loop
from descartesd.keeper.output import Pump
from descartesd.keeper.tree import Tree

kernel.become_subreaper()
if sys.argv[1] == "scan":
    procfs.knows_children = lambda: False
loop, agents = Loop(), Agents()
found = Tree(loop, agents, Groups())

def start(agent_id, script):
    leader = subprocess.Popen(
        ["sh", "-c", script], start_new_session=True, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "DESCARTES_AGENT_ID": agent_id})
    agent = Agent(Pump(loop, sys.argv[2], print), agent_id)
    agent.begin(1, leader.pid, os.pidfd_open(leader.pid), procfs.read(leader.pid).start_time)
    agents.add(agent)
    leaders.append(leader)
    return agent

def expect(look, *wanted):
    deadline = time.monotonic() + 5
    while True:
        loop.turn += 1
        names = sorted(procfs.command(pid).split(" -c ")[0] for pid in look())
        if names == sorted(wanted):
            return
        if time.monotonic() > deadline:
            print(names, "instead of", wanted)
            return
        time.sleep(0.01)

def members(agent):
    return lambda: [each.pid for each in found.walk(agent)]

def strays():
    return [pid for pid, _ in found.orphans().get(None, ())]

leaders = []
first = start("one", "sleep 61 & setsid sh -c 'sleep 62 & wait' & wait")
second = start("two", "setsid sh -c '(exec sleep 63) & exit' & wait; sleep 64")
expect(members(first), "sh", "sh", "sleep 61", "sleep 62")
expect(members(second), "sh", "sleep 63", "sleep 64")

# Seen in the tree, so known afterwards, whatever its session and environment say.
third = start("three", "(exec env -i setsid sh -c 'sleep 65 & wait; exit') & wait; sleep 68")
expect(members(third), "sh", "sh", "sleep 65")
os.kill(next(each.pid for each in found.walk(third) if each.ppid == third.pid), 9)
expect(members(third), "sh", "sleep 65", "sleep 68")

# Never seen, and nothing tells whose it is.
fourth = start("four", "env -i setsid sh -c '(exec sleep 66) & exit'; exec sleep 67")
expect(members(fourth), "sleep 67")
expect(strays, "sleep 66")

for agent in (first, second, third, fourth):
    for each in list(found.walk(agent)):
        found.signal(agent, each, 9)
for pid, start_time in found.orphans().get(None, ()):
    tree.signal_process(pid, start_time, 9)
for leader in leaders:
    leader.wait()
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
print("done")
"""


@pytest.mark.parametrize("way", ["lists", "scan"])
def test_descendants_and_orphans_are_found_and_attributed(tmp_path: object, way: str) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOK, way, str(tmp_path)],
        capture_output=True,
        check=False,
        text=True,
        timeout=20,
    )

    assert (told.stdout, told.stderr) == ("done\n", "")


def test_signal_misses_a_process_that_is_not_the_one_meant() -> None:
    other = subprocess.Popen(["sleep", "60"])
    process = procfs.read(other.pid)
    assert process is not None

    assert signal_process(other.pid, process.start_time - 1, 9) is False
    assert other.poll() is None
    assert signal_process(other.pid, process.start_time, 9) is True
    assert other.wait() == -9
    assert signal_process(other.pid, process.start_time, 9) is False


def test_other_agents_are_never_touched(keeper: Keeper) -> None:
    victims = [keeper.spawn("sh", "-c", "setsid sleep 60 & sleep 60") for _ in range(5)]
    others = [keeper.spawn("sh", "-c", "setsid sleep 60 & sleep 60") for _ in range(5)]
    before = set(keeper.children())

    for agent_id in victims:
        keeper.ask("pause", agent_id=agent_id)
        keeper.ask("kill", agent_id=agent_id)
        keeper.exited(agent_id)

    left = {(keeper.status(agent_id) or {})["pid"] for agent_id in others}
    assert left <= before
    assert all(alive(pid) for pid in left)
    for pid in left:
        assert len(procfs.children(pid, 1)) == 2


def test_this_test_leaves_no_process() -> None:
    assert not [pid for pid in procfs.children(os.getpid(), 1) if "sleep" in procfs.command(pid)]
