"""What agents use, where no control group counts it."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper


def usage(keeper: Keeper, *agent_ids: str) -> dict[str, Any]:
    """As the keeper tells it, by id."""
    return dict(keeper.ask("usage", agent_ids=list(agent_ids))["usage"])


def test_use_is_added_up_over_the_tree(keeper: Keeper) -> None:
    script = (
        "import os, threading, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    held = b'x' * 50_000_000\n"
        "    os.write(1, b'on')\n"
        "    time.sleep(300)\n"
        "threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "while True:\n"
        "    pass\n"
    )
    agent_id = keeper.spawn(*PYTHON, script)
    keeper.wait_out(agent_id, b"on")

    memory, cpu_seconds, tasks = eventually(
        lambda: found if (found := usage(keeper, agent_id)[agent_id])[1] > 0.1 else None
    )

    assert 50_000_000 < memory < 200_000_000
    assert cpu_seconds < 10
    assert tasks == 3


def test_time_of_what_is_gone_is_not_taken_back(keeper: Keeper) -> None:
    script = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo spent; sleep 300"
    # The shell in between ends, and with it what it has waited for.
    agent_id = keeper.spawn("sh", "-c", f"(sh -c '{script}' &) ; sleep 300")
    keeper.wait_out(agent_id, b"spent")
    before = usage(keeper, agent_id)[agent_id]
    for pid in keeper.children():
        if pid != (keeper.status(agent_id) or {})["pid"]:
            os.kill(pid, signal.SIGKILL)

    after = eventually(
        lambda: found if (found := usage(keeper, agent_id)[agent_id])[2] < before[2] else None
    )

    assert before[1] > 0
    assert after[1] == before[1]


def test_agents_that_do_not_run_are_left_out(keeper: Keeper) -> None:
    ended = keeper.run("true")["agent_id"]
    running = keeper.spawn("sleep", "60")

    assert list(usage(keeper, ended, running, "unknown")) == [running]
    assert usage(keeper) == {}
