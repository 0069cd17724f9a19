"""The limits of this process and of what it starts, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from descartesd.errors import InvalidArgumentError
from tests.unit.keeper.harness import Keeper

SCRIPT = """
import os, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 500))
from descartesd.keeper.limits import Limits
limits = Limits()
print(limits.descriptors_max, resource.getrlimit(resource.RLIMIT_NOFILE))
# More than the soft limit it was started with.
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
before = len(os.listdir("/proc/self/fd"))
code = "import resource, time; time.sleep(0.2); print(resource.getrlimit(7))"
show = [sys.executable, "-I", "-S", "-c", code]
for rlimits in ({}, {"nofile": 50}):
    with limits.passed_on(rlimits):
        child = subprocess.Popen(show, preexec_fn=limits.preparation(rlimits))
    limits.settle(child.pid, rlimits)
    child.wait()
print(resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd")) - before)
print(limits.preparation({}), limits.preparation({"nofile": 50}))
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
        "None None",
    ]


def test_limits_that_cannot_be_are_refused(keeper: Keeper) -> None:
    with pytest.raises(InvalidArgumentError, match="no limit 'cpu', expected one of nofile, nproc"):
        keeper.spawn("true", rlimits={"cpu": 1})
    with pytest.raises(InvalidArgumentError, match="over the keeper's own hard limit of"):
        keeper.spawn("true", rlimits={"nofile": 2**40})
    with pytest.raises(InvalidArgumentError, match="nofile: expected an integer"):
        keeper.spawn("true", rlimits={"nofile": "many"})
