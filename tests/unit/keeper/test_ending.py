"""The operation shutdown, against real keepers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from descartesd.errors import UnavailableError
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper, alive
from tests.unit.keeper.test_control import TREE


def test_shutdown_stops_all_at_once_and_answers_when_nothing_is_left(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    deaf = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    stop = {"signal": 15, "grace_s": 0.3}
    ids = [keeper.spawn("sh", "-c", deaf, stop=stop) for _ in range(10)]
    tree = keeper.spawn(*PYTHON, TREE % "run()")
    paused = keeper.spawn("sleep", "60")
    keeper.ask("pause", agent_id=paused)
    for agent_id in ids:
        keeper.wait_out(agent_id, b"up")
    pids = [int(pid) for pid in keeper.wait_out(tree, b"\n").split()]

    began = time.monotonic()
    requests = [keeper.client.begin("shutdown"), keeper.client.begin("shutdown")]
    with pytest.raises(UnavailableError, match="shutting down"):
        keeper.spawn("true")
    for request in requests:
        assert keeper.client.end(request) == {}

    # Together, not one after the other.
    assert 0.3 <= time.monotonic() - began < 2
    assert keeper.wait() == 0
    for agent_id in (*ids, tree, paused):
        assert keeper.exited(agent_id)["ended_by"] == "stop"
        keeper.eof(agent_id)
    assert not any(alive(pid) for pid in pids)
    assert not os.path.exists(keeper.socket)
    assert keeper.stderr() == ""


def test_shutdown_ends_strays(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn(
        "sh", "-c", "env -i setsid sh -c '(exec sleep 60) & exit'; exec sleep 60"
    )
    stray = eventually(lambda: keeper.ask("strays")["strays"])[0]
    assert stray["command"].startswith(("sleep 60", "sh -c"))
    assert (keeper.status(agent_id) or {})["state"] == "running"

    keeper.ask("shutdown")

    assert keeper.wait() == 0
    assert not alive(stray["pid"])


def test_shutdown_takes_the_last_output_along(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    script = (
        "import os, signal, sys, time\n"
        "def last(*_):\n"
        "    os.write(1, b'x' * 60000); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, last)\n"
        "os.write(1, b'up\\n')\n"
        "time.sleep(60)"
    )
    agent_id = keeper.spawn(*PYTHON, script)
    keeper.wait_out(agent_id, b"up")

    keeper.ask("shutdown")

    assert keeper.wait() == 0
    assert len(keeper.out(agent_id)) == 60_003
    assert keeper.exited(agent_id)["exit_code"] == 0


def test_second_ending_signal_changes_nothing(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    script = "trap 'sleep 0.2; echo bye; exit' TERM; echo up; while :; do sleep 0.02; done"
    agent_id = keeper.spawn("sh", "-c", script)
    keeper.wait_out(agent_id, b"up")

    keeper.process.send_signal(signal.SIGTERM)
    keeper.process.send_signal(signal.SIGINT)
    keeper.process.send_signal(signal.SIGTERM)

    assert keeper.wait() == 0
    assert keeper.out(agent_id) == b"up\nbye\n"
