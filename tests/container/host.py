"""A booted container as an administrator sees it, and the package installed in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.container.machine import NEEDED, Machine, booted
from tests.container.tree import tree

_BUILD = Path(__file__).parents[2] / "packaging" / "build_deb.py"
_DEB = "/run/deb"
DAEMON, KEEPER = "descartesd.service", "descartes-keeper.service"


class Host:
    """Runs what an administrator would type."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def run(self, script: str, *, status: int | None = 0) -> str:
        """What a shell prints; its exit status has to be this one, None for any."""
        done = self._machine.run("sh", "-c", script, stdout=subprocess.PIPE)
        told = done.stdout.decode()
        assert status in (None, done.returncode), f"{script}: {done.returncode}\n{told}"
        return told.strip()

    def ctl(self, words: str, *, user: str | None = None) -> Any:
        """What `descartesctl --json` prints."""
        as_user = f"runuser -u {user} -- " if user else ""
        return json.loads(self.run(f"{as_user}descartesctl --json {words}"))

    def unit(self, name: str, field: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --property={field} --value {name}")

    def is_active(self, name: str) -> bool:
        """Whether a unit runs."""
        return self.unit(name, "ActiveState") == "active"

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        self.run(f"mkdir -p $(dirname {path}) && cat > {path} <<'END'\n{text}\nEND")

    def journal(self, words: str) -> list[dict[str, Any]]:
        """Entries of the journal."""
        told = self.run(f"journalctl --no-pager --output=json {words}")
        return [json.loads(line) for line in told.splitlines()]

    def agent(self, name: str) -> dict[str, Any]:
        """One agent."""
        found: dict[str, Any] = self.ctl(f"agent show {name}")
        return found


@contextmanager
def with_package(*, version_1: bool = False) -> Iterator[Host]:
    """Boot a container and install the package as it is built from this source.

    Its control groups are of version 2, or of 1.
    """
    missing = [program for program in NEEDED if shutil.which(program) is None]
    assert not missing, f"needs {', '.join(missing)}: apt install systemd-container mmdebstrap"
    assert os.geteuid() == 0, "needs root, as nobody else may boot a container"
    with tempfile.TemporaryDirectory(prefix="dsc-package-") as work:
        deb = Path(work) / "deb"
        subprocess.run([sys.executable, _BUILD, deb, "--fast"], check=True, stdout=subprocess.PIPE)
        console = Path(work) / "console"
        with booted(tree(), {deb: _DEB}, console, version_1=version_1) as machine:
            host = Host(machine)
            host.run(f"dpkg -i {_DEB}/*.deb")
            yield host
