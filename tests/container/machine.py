"""A container that is booted by its own systemd, in a control group of its own on the host."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tests.support.eventually import eventually

NEEDED: Final = ("systemd-nspawn", "mmdebstrap", "nsenter", "setpriv")
# A host with version 1 beside it, and a pure one; version 1 keeps a tree for systemd's own use.
_GROUPS: Final = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
_OF_SYSTEMD: Final = "/sys/fs/cgroup/systemd"
_JOIN: Final = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
_BOOT_S: Final = 60.0
_END_S: Final = 20.0


class Machine:
    """A booted container, whose first process is `leader` on the host."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def run(
        self, *command: str, stdout: int | IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run something in it; its exit status is the command's."""
        enter = [
            "nsenter",
            f"--target={self._leader}",
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "--root",
        ]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        return subprocess.run(
            [*enter, "--wdns=/", "--", *environment, *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT if stdout is not None else None,
            check=False,
        )

    @property
    def is_up(self) -> bool:
        """Whether it has booted: it says so only once it can be asked."""
        asked = self.run("systemctl", "is-system-running", stdout=subprocess.PIPE)
        return asked.stdout.strip() in (b"running", b"degraded")


@contextmanager
def booted(
    tree: Path, binds: Mapping[Path, str], log: Path, *, version_1: bool = False
) -> Iterator[Machine]:
    """Boot the tree, of which nothing is changed, with directories of the host in it.

    Its control groups are purely of version 2, or of 1, whatever the host has. Nothing is left of
    it after the block, whatever was started in it.
    """
    name = f"dsc-{uuid.uuid4().hex[:12]}"
    group = _host_groups() / name
    group.mkdir()
    try:
        with log.open("wb") as console:
            process = subprocess.Popen(
                ["sh", "-c", _JOIN, group, *_command(tree, binds, name)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=_environment(version_1=version_1),
                start_new_session=True,
            )
        try:
            machine = Machine(eventually(lambda: _leader(process, log), timeout=_BOOT_S))
            eventually(lambda: machine.is_up, timeout=_BOOT_S, step=0.05)
            yield machine
        finally:
            _end(process, group)
    finally:
        _clear(group, name)


def _host_groups() -> Path:
    return next(Path(each) for each in _GROUPS if os.path.exists(f"{each}/cgroup.procs"))


def _environment(*, version_1: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return {**kept, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0" if version_1 else "1"}


def _command(tree: Path, binds: Mapping[Path, str], name: str) -> Sequence[str]:
    return [
        # Gone with who started it, should that be killed.
        "setpriv", "--pdeathsig", "TERM",
        "systemd-nspawn", "--quiet", f"--directory={tree}", "--volatile=overlay", "--boot",
        "--register=no", "--keep-unit", "--private-network", f"--machine={name}",
        "--console=pipe", "--kill-signal=SIGRTMIN+3",
        *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
    ]  # fmt: skip


def _leader(process: subprocess.Popen[bytes], log: Path) -> int | None:
    """The container's first process, a child of nspawn's."""
    if process.poll() is not None:
        raise RuntimeError(f"the container did not boot: {log.read_text()[-2000:]}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in map(int, children):
        try:
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return child
        except OSError:
            continue
    return None


def _end(process: subprocess.Popen[bytes], group: Path) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        print("the container did not power off: it is killed")
    (group / "cgroup.kill").write_text("1")
    process.wait(_END_S)


def _clear(group: Path, name: str) -> None:
    for left in (group, Path(_OF_SYSTEMD) / name):
        deadline = time.monotonic() + _END_S
        while left.exists():
            try:
                for directory, _, _ in os.walk(left, topdown=False):
                    os.rmdir(directory)
            except OSError:
                # What was killed takes a moment to be gone.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
    propagated = Path("/run/systemd/nspawn/propagate") / name
    if propagated.exists():
        propagated.rmdir()
