"""What is left of an agent after its leader has exited: ended, or left alone where asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError
from tests.support.eventually import eventually
from tests.unit.keeper.harness import Keeper, alive

LEAVE = "{ setsid sleep 300 > /dev/null 2>&1 & }; echo $!"


@pytest.fixture
def kept() -> Iterator[list[int]]:
    """Pids of what agents were told to leave running; ended after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)))


def leave(keeper: Keeper, kept: list[int], script: str = LEAVE, **fields: object) -> str:
    """Run an agent that leaves a process; its id."""
    agent_id = keeper.spawn("sh", "-c", script, on_exit="keep", **fields)
    kept.append(int(keeper.wait_out(agent_id, b"\n").split()[-1]))
    return agent_id


def test_what_is_left_is_counted_and_let_live(keeper: Keeper, kept: list[int]) -> None:
    agent_id = leave(keeper, kept)

    assert keeper.exited(agent_id)["leftovers"] == 1

    keeper.eof(agent_id)
    assert alive(kept[0])
    # Nobody's any more: told by name, not forgotten.
    assert [stray["pid"] for stray in keeper.ask("strays")["strays"]] == kept


def test_what_was_left_is_no_part_of_the_next_attempt(keeper: Keeper, kept: list[int]) -> None:
    agent_id = leave(keeper, kept)
    keeper.exited(agent_id)
    keeper.eof(agent_id)
    keeper.ask("forget", agent_id=agent_id)

    keeper.spawn("sleep", "60", agent_id=agent_id, attempt=2)
    assert keeper.ask("signal", agent_id=agent_id, signal=signal.SIGCONT) == {"count": 1}
    keeper.ask("kill", agent_id=agent_id)

    assert keeper.exited(agent_id)["leftovers"] == 0
    keeper.eof(agent_id)
    assert alive(kept[0])


def test_what_that_forks_later_is_no_part_of_it_either(
    keeper: Keeper, kept: list[int], tmp_path: Path
) -> None:
    go, pid = tmp_path / "go", tmp_path / "pid"
    forking = f"until [ -e {go} ]; do sleep 0.01; done; (sleep 300 & echo $! > {pid})"
    agent_id = leave(
        keeper, kept, f"setsid sh -c '{forking}; exec sleep 300' > /dev/null 2>&1 & echo $!"
    )
    keeper.exited(agent_id)
    keeper.eof(agent_id)
    keeper.spawn("sleep", "60", agent_id=agent_id, attempt=2)

    go.touch()
    kept.append(int(eventually(lambda: told(pid))))
    eventually(lambda: kept[1] in keeper.children())
    keeper.ask("kill", agent_id=agent_id)

    assert keeper.exited(agent_id)["leftovers"] == 0
    assert keeper.ask("forget", agent_id=agent_id) == {}
    assert all(map(alive, kept))


def told(path: Path) -> str:
    """What a file says, once it does."""
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_an_agent_that_is_ended_keeps_nothing(keeper: Keeper, kept: list[int], verb: str) -> None:
    agent_id = leave(keeper, kept, f"{LEAVE}; sleep 300")

    keeper.ask(verb, agent_id=agent_id)

    assert keeper.exited(agent_id)["leftovers"] == 0
    eventually(lambda: not alive(kept[0]))


def test_output_ends_though_what_was_left_holds_it(keeper: Keeper, kept: list[int]) -> None:
    agent_id = leave(keeper, kept, "trap '' HUP; sleep 300 & echo $!", tty={"rows": 1, "cols": 1})

    assert keeper.exited(agent_id)["eof"] is False
    # Two seconds after the exit.
    assert keeper.eof(agent_id)["totals"]["stdout"] > 0
    assert alive(kept[0])


def test_other_words_are_refused(keeper: Keeper) -> None:
    with pytest.raises(InvalidArgumentError, match="on_exit: expected one of kill, keep"):
        keeper.spawn("true", on_exit="leave")
