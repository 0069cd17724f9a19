"""Boots a container, runs the checks of control groups in it, and tells how they went.

python -m tests.container [PYTEST-OPTION]…: exit status 0 when every check passed. Needs root,
systemd-container and mmdebstrap. In the container /sys/fs/cgroup is version 2 alone, whatever the
host has: freezing and killing are tried there; controllers are not, see tests.vm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from tests.container.machine import NEEDED, Machine, booted
from tests.container.tree import tree
from tests.support.guest import HOME, PROGRAMS

ROOT: Final = Path(__file__).parents[2]
CHECKS: Final = ("tests/unit/keeper/test_cgroup.py", "tests/faults/test_agents_contained.py")
# By this a check is skipped that is here to be run.
_NO_GROUP: Final = b"control group"


def main(options: list[str]) -> int:
    """Run the checks; the exit status of pytest, 1 when one found no control groups."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        wanted = f"{', '.join(missing)}: apt install systemd-container mmdebstrap"
        print(f"needs {wanted if missing else 'root (make test-vm does without)'}")
        return 2
    with tempfile.TemporaryDirectory(prefix="dsc-container-") as work:
        job = Path(work)
        _prepare(job / "bin")
        binds = {
            job / "bin": f"{HOME}/bin",
            ROOT: f"{HOME}/source",
            Path(sysconfig.get_path("purelib")): f"{HOME}/packages",
        }
        with booted(tree(), binds, job / "console") as machine:
            return _check(machine, options or list(CHECKS))


def _prepare(directory: Path) -> None:
    directory.mkdir()
    (directory / "python3").symlink_to("/usr/bin/python3")
    for name, text in PROGRAMS.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    directory.parent.chmod(0o755)


def _check(machine: Machine, words: list[str]) -> int:
    variables = {
        "HOME": "/root",
        "PATH": f"{HOME}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": f"{HOME}/source:{HOME}/packages",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = machine.run(
        "systemd-run", "--quiet", "--pipe", "--wait", "--collect",
        "--property=TasksMax=infinity", f"--working-directory={HOME}/source",
        *(f"--setenv={name}={value}" for name, value in variables.items()),
        # A shell stays with it: alone in its group the tests would take that for their own.
        "sh", "-c", '"$@"; exit "$?"', "sh", f"{HOME}/bin/python3",
        "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-o", "timeout=120", *words,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    print(done.stdout.decode(errors="replace"))
    skipped = [line for line in done.stdout.splitlines() if line.startswith(b"SKIPPED")]
    if any(_NO_GROUP in line for line in skipped):
        print("the container has no control groups to try")
        return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
