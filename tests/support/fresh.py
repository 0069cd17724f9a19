"""A virtual environment made a moment ago, which descartesd and its plugins are installed into."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What is installed for working on it, and must not be found here.
_OURS = ("descartesd", "_descartesd", "__editable__")


class Fresh:
    """Has what descartesd depends on, from the environment of the tests; nothing is downloaded."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "venv"
        self.wheels = directory / "wheels"
        venv.create(self.directory, symlinks=True, with_pip=False)
        self._borrow()
        pip = self.programs / "pip"
        pip.write_text(f'#!/bin/sh\nexec "{self.programs}/python" -m pip "$@"\n')
        pip.chmod(0o755)

    @property
    def programs(self) -> Path:
        return self.directory / "bin"

    def _borrow(self) -> None:
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(self.directory)}))
        for entry in os.scandir(sysconfig.get_path("purelib")):
            if not entry.name.startswith(_OURS) and not entry.name.endswith(".pth"):
                (packages / entry.name).symlink_to(entry.path)

    @property
    def environ(self) -> Mapping[str, str]:
        """What has pip look for packages among the wheels, and nowhere else."""
        return {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_WARN_SCRIPT_LOCATION": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_QUIET": "1",
        }

    def build(self, project: Path) -> None:
        """Put the wheel of a project where pip finds it."""
        words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", self.wheels]
        self._run([str(word) for word in words], cwd=project)

    def pip(self, *words: str | Path) -> None:
        """Run pip."""
        self._run([str(self.programs / "pip"), *map(str, words)])

    def _run(self, words: list[str], cwd: Path | None = None) -> None:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
