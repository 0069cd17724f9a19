"""Agents whose time is over are stopped, by their own signal and grace."""

from __future__ import annotations

import time

import pytest

from descartesd.errors import InvalidArgumentError
from tests.unit.keeper.harness import Keeper


def test_agent_is_stopped_when_its_time_is_over(keeper: Keeper) -> None:
    began = time.monotonic()
    ended = keeper.run(
        "sh", "-c", "trap 'exit 6' TERM; sleep 300 & wait", limits={"run_seconds": 0.2}
    )

    assert 0.2 <= time.monotonic() - began < 2
    assert (ended["ended_by"], ended["exit_code"]) == ("run_time", 6)
    assert ended["limits_enforced"] == {"run_seconds": True}


def test_agent_that_does_not_heed_the_signal_is_killed(keeper: Keeper) -> None:
    stop = {"signal": 15, "grace_s": 0.1}
    ended = keeper.run(
        "sh",
        "-c",
        "trap '' TERM; while :; do sleep 300; done",
        limits={"run_seconds": 0.1},
        stop=stop,
    )

    assert (ended["ended_by"], ended["signal"]) == ("run_time", 9)


def test_paused_agent_ends_in_time_too(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "300", limits={"run_seconds": 0.2})
    keeper.ask("pause", agent_id=agent_id)

    assert keeper.exited(agent_id)["ended_by"] == "run_time"


def test_time_is_each_attempts_own(keeper: Keeper) -> None:
    agent_id = keeper.spawn("true", limits={"run_seconds": 0.1})
    keeper.exited(agent_id)

    keeper.spawn("sleep", "0.3", agent_id=agent_id, attempt=2)

    ended = keeper.exited(agent_id)
    assert (ended["attempt"], ended["ended_by"], ended["exit_code"]) == (2, None, 0)


def test_a_stop_by_a_person_is_told_as_such(keeper: Keeper) -> None:
    agent_id = keeper.spawn(
        "sh", "-c", "trap '' TERM; while :; do sleep 300; done", limits={"run_seconds": 0.2}
    )
    keeper.ask("stop", agent_id=agent_id, grace_s=0.5)

    assert keeper.exited(agent_id)["ended_by"] == "stop"


@pytest.mark.parametrize("bad", [-1, "soon", float("inf"), True])
def test_bad_times_are_refused(keeper: Keeper, bad: object) -> None:
    with pytest.raises(InvalidArgumentError, match="run_seconds: expected"):
        keeper.spawn("true", limits={"run_seconds": bad})
