"""What a killed keeper leaves is ended by the next one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.keeper import procfs
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper, alive
from tests.unit.keeper.test_control import TREE


def test_tree_of_a_killed_keeper_is_ended_and_nothing_else(
    make_keeper: Callable[..., Keeper], keeper: Keeper
) -> None:
    killed = make_keeper()
    ids = [killed.spawn(*PYTHON, TREE % "run()") for _ in range(3)]
    pids = [int(pid) for each in ids for pid in killed.wait_out(each, b"\n").split()]
    bare = killed.spawn("sh", "-c", "env -i sleep 60 & echo $!; sleep 60")
    pids.append(int(killed.wait_out(bare, b"\n")))
    lost = [killed.status(each) or {} for each in (*ids, bare)]
    pids.extend(each["pid"] for each in lost)
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    mine = keeper.spawn("sleep", "60")

    killed.process.send_signal(signal.SIGKILL)
    killed.wait()
    assert all(alive(pid) for pid in pids)
    agents = [{key: each[key] for key in ("agent_id", "pid", "start_time")} for each in lost]
    reply = keeper.ask("recover", agents=agents)

    # The shell's own sleep is among them too.
    assert reply == {"ended": len(pids) + 1}
    assert not any(alive(pid) for pid in pids)
    assert bystander.poll() is None
    assert (keeper.status(mine) or {})["state"] == "running"
    assert keeper.ask("recover", agents=agents) == {"ended": 0}
    bystander.kill()
    bystander.wait()


def test_other_process_under_a_leaders_pid_is_spared(keeper: Keeper) -> None:
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    process = procfs.read(other.pid)
    assert process is not None

    agents = [{"agent_id": "gone", "pid": other.pid, "start_time": process.start_time - 1}]

    assert keeper.ask("recover", agents=agents) == {"ended": 0}
    assert other.poll() is None
    other.kill()
    other.wait()


def test_agents_of_this_keeper_are_spared(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60")
    status = keeper.status(agent_id) or {}

    agents = [{key: status[key] for key in ("agent_id", "pid", "start_time")}]

    assert keeper.ask("recover", agents=agents) == {"ended": 0}
    assert alive(status["pid"])


def test_what_the_lost_agent_still_forks_is_ended_too(
    make_keeper: Callable[..., Keeper], keeper: Keeper
) -> None:
    killed = make_keeper()
    script = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        while True:\n"
        "            if os.fork(): os._exit(0)\n"
        "            os.setsid()\n"
        "            os.write(1, b'.')\n"
        "            time.sleep(0.01)\n"
        "time.sleep(60)"
    )
    agent_id = killed.spawn(*PYTHON, script)
    killed.wait_out(agent_id, b"...")
    status = killed.status(agent_id) or {}
    killed.process.send_signal(signal.SIGKILL)
    killed.wait()

    agents = [{key: status[key] for key in ("agent_id", "pid", "start_time")}]
    assert keeper.ask("recover", agents=agents)["ended"] >= 1

    def left() -> list[int]:
        return [pid for pid in procfs.pids() if procfs.agent_id(pid) == agent_id and alive(pid)]

    eventually(lambda: not left())


def test_nobody_to_recover_is_answered_at_once(keeper: Keeper) -> None:
    assert keeper.ask("recover", agents=[]) == {"ended": 0}


@pytest.mark.parametrize(
    "agents", [None, ["x"], [{}], [{"agent_id": "a", "pid": 0, "start_time": 1}]]
)
def test_agents_that_cannot_be_are_refused(keeper: Keeper, agents: object) -> None:
    with pytest.raises(InvalidArgumentError):
        keeper.ask("recover", agents=agents)
