"""What an agent finds when it starts, by both ways of starting it."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.server import SETTABLE_SIGNALS
from tests.unit.keeper.harness import PATH, PYTHON, Keeper

LOOK = (
    "import json, os, resource, signal, sys\n"
    "fds = {fd: os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')\n"
    "       if os.path.exists(f'/proc/self/fd/{fd}')}\n"
    "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)\n"
    "json.dump({\n"
    "    'argv': sys.orig_argv[-2:], 'cwd': os.getcwd(), 'env': dict(os.environ),\n"
    "    'fds': fds, 'umask': os.umask(0), 'ppid': os.getppid(),\n"
    "    'leads': os.getsid(0) == os.getpid() == os.getpgid(0),\n"
    "    'blocked': status['SigBlk'].strip(),\n"
    "    'nofile': resource.getrlimit(resource.RLIMIT_NOFILE),\n"
    "    'nproc': resource.getrlimit(resource.RLIMIT_NPROC),\n"
    "    'oom': open('/proc/self/oom_score_adj').read().strip(),\n"
    "    'capabilities': status['CapAmb'].strip(),\n"
    "    'block': os.get_blocking(0) and os.get_blocking(1) and os.get_blocking(2),\n"
    "}, sys.stdout)"
)


def look(keeper: Keeper, **fields: object) -> dict[str, object]:
    """What an agent reports of itself."""
    agent_id = keeper.run(*PYTHON, LOOK, "an argument", **fields)["agent_id"]
    assert keeper.out(agent_id, "stderr") == b""
    found = json.loads(keeper.out(agent_id))
    assert isinstance(found, dict)
    found["id"] = agent_id
    return found


@pytest.mark.parametrize(
    "rlimits", [{}, {"nofile": 123, "nproc": 4567}], ids=["by vfork", "by fork with limits"]
)
@pytest.mark.parametrize("stdin", ["null", "pipe"])
def test_agent_gets_exactly_what_was_asked_for(
    keeper: Keeper, tmp_path: Path, rlimits: dict[str, int], stdin: str
) -> None:
    seen = look(
        keeper, cwd=str(tmp_path), env={"A": "b=c", "LEER": ""}, rlimits=rlimits, stdin=stdin
    )

    assert seen["argv"] == [LOOK, "an argument"]
    assert seen["cwd"] == str(tmp_path)
    expected = {"PATH": ":".join(PATH), "DESCARTES_AGENT_ID": seen["id"], "A": "b=c", "LEER": ""}
    env = seen["env"]
    assert isinstance(env, dict)
    # Python itself sets LC_CTYPE when it starts in the C locale (PEP 538).
    env.pop("LC_CTYPE", None)
    assert env == expected
    fds = seen["fds"]
    assert isinstance(fds, dict)
    assert sorted(fds) == ["0", "1", "2"]
    assert fds["0"].startswith("/dev/null" if stdin == "null" else "pipe:")
    assert len({fds["1"], fds["2"]}) == 2
    assert seen["umask"] == 0o022
    assert seen["ppid"] == keeper.process.pid
    assert seen["leads"] is True
    assert seen["block"] is True
    assert int(str(seen["blocked"]), 16) == 0
    assert int(str(seen["capabilities"]), 16) == 0
    if rlimits:
        assert (seen["nofile"], seen["nproc"]) == ([123, 123], [4567, 4567])


def test_signals_are_at_their_defaults_for_a_program_that_changes_none(keeper: Keeper) -> None:
    for rlimits in ({}, {"nofile": 99}):
        agent_id = keeper.run("cat", "/proc/self/status", rlimits=rlimits)["agent_id"]
        status = dict(
            line.split(":\t", 1)
            for line in keeper.out(agent_id).decode().splitlines()
            if ":\t" in line
        )
        for field in ("SigBlk", "SigIgn", "SigCgt"):
            assert int(status[field], 16) & SETTABLE_SIGNALS == 0


def test_agents_get_the_soft_limit_the_keeper_was_started_with(
    make_keeper: Callable[..., Keeper],
) -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 5000)
    keeper = make_keeper(prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard)))

    # More agents than the soft limit would allow the keeper to have.
    ids = [keeper.spawn("sleep", "60") for _ in range(60)]
    seen = look(keeper)
    fewest = look(keeper, rlimits={"nofile": 16})
    limits = Path(f"/proc/{keeper.process.pid}/limits").read_text().splitlines()
    files = next(line for line in limits if line.startswith("Max open files")).split()

    assert files[3:5] == [str(hard), str(hard)]
    assert keeper.descriptors() > 100
    assert seen["nofile"] == [100, hard]
    assert fewest["nofile"] == [16, 16]
    assert len(ids) == 60


def test_agents_start_with_an_oom_score_of_their_own(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper(prepare=lambda: Path("/proc/self/oom_score_adj").write_text("100"))

    assert look(keeper)["oom"] == "0"


def test_starting_and_failing_leaves_no_descriptor(keeper: Keeper) -> None:
    keeper.run("true", stdin="pipe")
    before = keeper.descriptors()

    for _ in range(20):
        keeper.run("true", stdin="pipe", rlimits={"nofile": 50})

    assert keeper.descriptors() == before
