"""A control group of a test's own, where the host has version 2 of them and lets it make one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.server import Server

# A pure version 2 host, and one that has it beside version 1.
_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


@contextmanager
def control_group() -> Iterator[Path]:
    """A group for one keeper; whatever is in it is killed after the block.

    Skips the test where none can be made. A real root group's children have no limits unless the
    host enables controllers for them: freezing, killing and counting work always.
    """
    mount = next((Path(each) for each in _MOUNTS if os.path.exists(f"{each}/cgroup.procs")), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("needs control groups of version 2, and root to make one")
    group = mount / f"dsc-{uuid.uuid4().hex[:12]}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"cannot make a control group: {exc}")
    try:
        if not (group / "cgroup.kill").exists():
            pytest.skip("needs Linux 5.14 for cgroup.kill")
        yield group
    finally:
        if (group / "cgroup.kill").exists():
            (group / "cgroup.kill").write_text("1")
        eventually(lambda: "populated 0" in (group / "cgroup.events").read_text())
        for directory, _, _ in os.walk(group, topdown=False):
            os.rmdir(directory)


def join(group: Path) -> None:
    """Move this process, one that has just been forked, into a group."""
    fd = os.open(group / "cgroup.procs", os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


def agents_in(group: Path) -> list[str]:
    """The groups of agents in a keeper's group."""
    return sorted(name for name in os.listdir(group) if name.startswith("agent-"))


@contextmanager
def running_in(group: Path, **settings: object) -> Iterator[Server]:
    """A server whose keeper is alone in a control group, as a service's would be."""
    with Server(settings) as server:
        keeper = subprocess.Popen(
            [
                sys.executable, "-m", "descartesd.keeper",
                "--socket", server.directory / "run" / "keeper.sock",
                "--output-dir", server.directory / "state" / "output",
            ],
            env=server.environ,
            preexec_fn=partial(join, group),  # noqa: PLW1509 - no other thread runs in these tests
        )  # fmt: skip
        try:
            eventually((server.directory / "run" / "keeper.sock").exists)
            server.start(wait=False)
            # The first start in a virtual machine, whose processor may be emulated, is a cold one.
            server.wait_until_serving(60)
            yield server
        finally:
            server.stop()
            keeper.kill()
            keeper.wait()
