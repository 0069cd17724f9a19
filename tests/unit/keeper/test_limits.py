"""The limits of this process and of what it starts, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from descartesd.errors import ConflictError, InvalidArgumentError, UnimplementedError
from tests.support.eventually import eventually
from tests.unit.keeper.harness import Keeper

SCRIPT = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 500))
from descartesd.keeper.limits import Limits
limits = Limits()
print(limits.descriptors_max, resource.getrlimit(resource.RLIMIT_NOFILE))
# More than the soft limit it was started with.
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
code = "import resource, time; time.sleep(0.2); print(resource.getrlimit(7))"
show = [sys.executable, "-I", "-S", "-c", code]
high = os.dup(1)
before = len(os.listdir("/proc/self/fd"))
for rlimits in ({}, {"nofile": 50}):
    _, out, err = limits.lend(rlimits, (0, high, high))
    dup = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)]
    child = os.posix_spawn(show[0], show, os.environ, file_actions=dup)
    limits.take_back()
    limits.settle(child, rlimits)
    os.waitpid(child, 0)
print(resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd")) - before)
print([name for name, _ in limits.steps({"nofile": 50, "nproc": 60})])
for rlimits in ({}, {"nofile": 50}):
    child = os.fork()
    if not child:
        limits.files_step(rlimits)[1]()
        os.execv(show[0], show)
    os.waitpid(child, 0)
"""


def test_soft_limit_is_raised_for_the_keeper_alone() -> None:
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    assert told.stdout.splitlines() == [
        "500 (500, 500)",
        "(64, 500)",
        "(50, 50)",
        "(500, 500) 0",
        "['nproc']",
        "(64, 500)",
        "(50, 50)",
    ]


def test_limits_that_cannot_be_are_refused(keeper: Keeper) -> None:
    with pytest.raises(InvalidArgumentError, match="no limit 'cpu', expected one of nofile, nproc"):
        keeper.spawn("true", rlimits={"cpu": 1})
    with pytest.raises(InvalidArgumentError, match="over the keeper's own hard limit of"):
        keeper.spawn("true", rlimits={"nofile": 2**40})
    with pytest.raises(InvalidArgumentError, match="nofile: expected an integer"):
        keeper.spawn("true", rlimits={"nofile": "many"})


@pytest.mark.parametrize("name", ["memory_bytes", "cpu_percent", "tasks"])
def test_limits_nothing_can_hold_are_refused_or_told(keeper: Keeper, name: str) -> None:
    for fields in ({}, {"trial": True}):
        with pytest.raises(UnimplementedError, match=f"limits.{name}: this host cannot") as caught:
            keeper.spawn("true", limits={name: 1 << 20}, **fields)
        assert "limits.best_effort" in str(caught.value.hint)

    ended = keeper.run("true", limits={name: 1 << 20, "best_effort": True}, rlimits={"nofile": 99})

    assert ended["limits_enforced"] == {name: False, "open_files": True}
    assert ended["pause_mode"] == "tree"


def test_limits_of_the_wrong_kind_are_refused_by_name(keeper: Keeper) -> None:
    with pytest.raises(InvalidArgumentError, match="memory_bytes: expected an integer from 1"):
        keeper.spawn("true", limits={"memory_bytes": 0})
    with pytest.raises(InvalidArgumentError, match="best_effort: expected true or false"):
        keeper.spawn("true", limits={"best_effort": 1})


def test_private_directory_is_made_and_removed_with_the_agent(
    make_keeper: Callable[..., Keeper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    keeper = make_keeper()
    agent_id = keeper.spawn("sh", "-c", 'echo "$TMPDIR"; touch "$TMPDIR/x"', private_tmp=True)
    keeper.exited(agent_id)
    directory = tmp_path / f"descartes-{agent_id}"

    assert keeper.out(agent_id).decode() == f"{directory}\n"
    assert directory.stat().st_mode & 0o7777 == 0o700
    keeper.ask("remove", agent_id=agent_id)
    assert os.listdir(tmp_path) == []

    empty = keeper.spawn("sh", "-c", 'touch "$TMPDIR/x"; rm "$TMPDIR/x"', private_tmp=True)
    keeper.exited(empty)
    eventually(lambda: os.listdir(tmp_path) == [])

    (tmp_path / "descartes-taken").write_text("")
    with pytest.raises(ConflictError, match="belongs to somebody else"):
        keeper.spawn("true", agent_id="taken", private_tmp=True)
    assert keeper.status("taken") is None
