"""Pipes for many agents, and what is said when the host has no more."""

from __future__ import annotations

import fcntl
import os
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from descartesd.errors import ResourceExhaustedError
from descartesd.keeper import stdio
from descartesd.keeper.agent import DESCRIPTORS
from descartesd.keeper.launch import HEADROOM
from descartesd.keeper.terminal import Size
from tests.unit.keeper.harness import Keeper

MANY = 600
# Nobody else has it: processes and pipes are counted by user.
NOBODY = 61_600
# With either of them a user may have as many pages as it likes (pipe(7)).
CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 1 << 21, 1 << 24
PIPE_BYTES = 64 * 1024  # pipe(7)


def pipe_sizes(keeper: Keeper) -> Counter[int]:
    """The capacities of the pipes a keeper has open."""
    sizes: Counter[int] = Counter()
    directory = f"/proc/{keeper.process.pid}/fd"
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if os.readlink(path).startswith("pipe:"):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            sizes[fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)] += 1
            os.close(fd)
    return sizes


def test_600_agents_with_pipes_stay_within_what_an_unprivileged_user_may_have(
    make_keeper: Callable[..., Keeper],
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY * DESCRIPTORS + HEADROOM:
        pytest.skip(f"this user may have {hard} descriptors only")
    keeper = make_keeper(uid=NOBODY if os.geteuid() == 0 else None)
    status = Path(f"/proc/{keeper.process.pid}/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    assert not held & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE)
    ids = [keeper.spawn("cat", stdin="pipe") for _ in range(MANY)]

    # Beyond pipe-user-pages-soft the kernel makes pipes of two pages.
    assert pipe_sizes(keeper)[stdio.SMALL_PIPE_BYTES] == 2 * MANY
    assert pipe_sizes(keeper)[PIPE_BYTES] >= MANY

    for agent_id in ids:
        keeper.ask("write", agent_id=agent_id, data=bytes(20_000))
        keeper.ask("close_stdin", agent_id=agent_id)
    for agent_id in ids:
        assert keeper.eof(agent_id)["totals"]["stdout"] == 20_000


@pytest.mark.parametrize(
    ("open_it", "what"),
    [
        (lambda: stdio.open_pipes(-1, has_stdin=True), "pipe"),
        (lambda: stdio.open_pipes(-1, has_stdin=False), "pipe"),
        (lambda: stdio.open_tty(Size(1, 1)), "terminal"),
    ],
)
def test_want_of_descriptors_is_told_at_each_point_and_leaves_none(
    open_it: Callable[[], stdio.Stdio], what: str
) -> None:
    fill = [os.open("/dev/null", os.O_RDONLY)]
    while fill[-1] < max(map(int, os.listdir("/proc/self/fd"))) - 1:
        fill.append(os.dup(fill[0]))
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = []
    made = None

    while made is None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fill[-1] + 1 + len(told), limits[1]))
        try:
            made = open_it()
        except ResourceExhaustedError as error:
            told.append(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        if made is None:
            assert len(os.listdir("/proc/self/fd")) == before
    made.ours.close()
    made.close_theirs()
    for fd in fill:
        os.close(fd)

    assert len(told) >= 3
    for error in told:
        assert error.message == f"no {what} for the agent: Too many open files"
        assert error.hint == "raise LimitNOFILE of the service that runs the keeper"
