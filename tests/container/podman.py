"""The container image as it is built from this source, and containers that run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.eventually import eventually

_BUILD: Final = Path(__file__).parents[2] / "packaging" / "build_image.py"
# crun and the limits podman has by default ask for more than a host inside a host gives.
_LIMITS: Final = "[containers]\ndefault_ulimits = []\n"
_RUNTIME: Final = ("--cgroup-manager", "cgroupfs", "--runtime", "runc")
CONFINED: Final = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")
# Nobody but systemd would set off podman's own health checks.
_STARTED: Final = ("--detach", "--ulimit", "host", "--health-interval", "disable")


class Podman:
    """podman with storage of its own and the image in it; nothing is left after the block."""

    def __init__(self, work: Path) -> None:
        self._work = work
        (work / "containers.conf").write_text(_LIMITS)
        self._environ = {**os.environ, "CONTAINERS_CONF": str(work / "containers.conf")}
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "descartesd"
        base.mkdir(parents=True, exist_ok=True)
        kept = {**os.environ, "DSC_IMAGE_BASE": str(base / "image-base.tar")}
        subprocess.run([sys.executable, _BUILD, work], check=True, stdout=subprocess.PIPE, env=kept)
        (archive,) = work.glob("*-container.tar")
        self.image = self.run("load", "--quiet", "--input", archive).split()[-1]
        archive.unlink()

    def run(self, *words: str | Path, status: int | None = 0) -> str:
        """What a command of podman prints; its exit status has to be this one, None for any."""
        storage = ("--root", self._work / "storage", "--runroot", self._work / "run")
        asked = [str(word) for word in ("podman", *storage, *_RUNTIME, *words)]
        done = subprocess.run(asked, env=self._environ, capture_output=True, text=True, check=False)
        assert status in (None, done.returncode), f"{words}: {done.stdout}{done.stderr}"
        # What a container writes to standard error is among its logs.
        return (done.stdout + done.stderr if words[0] == "logs" else done.stdout).strip()

    @property
    def config(self) -> dict[str, Any]:
        """What the image says of how it is run."""
        (told,) = json.loads(self.run("image", "inspect", self.image))
        return dict(told["Config"])

    @contextmanager
    def container(
        self, *options: str, environ: Mapping[str, str] | None = None, confined: bool = True
    ) -> Iterator[Container]:
        """Run the image until it serves, with nothing it may do but what everybody may."""
        variables = [f"--env={name}={value}" for name, value in (environ or {}).items()]
        words = [*_STARTED, *(CONFINED if confined else ()), *variables, *options]
        made = Container(self, self.run("run", *words, self.image))
        try:
            made.wait_until_healthy()
            yield made
        finally:
            self.run("rm", "--force", "--volumes", made.id)


class Container:
    """One that runs."""

    def __init__(self, podman: Podman, id_: str) -> None:
        self._podman = podman
        self.id = id_

    def run(self, *words: str, status: int | None = 0) -> str:
        """Run something in it."""
        return self._podman.run("exec", self.id, *words, status=status)

    def ctl(self, *words: str, status: int | None = 0) -> Any:
        """What `descartesctl --json` prints in it."""
        return json.loads(self.run("descartesctl", "--json", *words, status=status))

    @property
    def is_healthy(self) -> bool:
        """What the image's own check says."""
        self._podman.run("healthcheck", "run", self.id, status=None)
        told = self._podman.run("inspect", "--format", "{{.State.Health.Status}}", self.id)
        return told == "healthy"

    def wait_until_healthy(self) -> None:
        """Wait for the image's own check to hold."""
        try:
            eventually(lambda: self.is_healthy, timeout=60, step=0.2)
        except AssertionError as exc:
            told = self._podman.run("logs", self.id, status=None)
            raise AssertionError(f"it is not healthy after 60 s: {told}") from exc

    def stop(self) -> int:
        """Stop it as a platform does; the exit status of its first process."""
        self._podman.run("stop", "--time", "30", self.id)
        return int(self._podman.run("inspect", "--format", "{{.State.ExitCode}}", self.id))

    def start(self) -> None:
        """Start it again on the volumes it had."""
        self._podman.run("start", self.id)
        self.wait_until_healthy()


@contextmanager
def with_image() -> Iterator[Podman]:
    """Build the image and load it."""
    with tempfile.TemporaryDirectory(prefix="dsc-podman-") as work:
        podman = Podman(Path(work))
        try:
            yield podman
        finally:
            podman.run("system", "reset", "--force", status=None)
