"""Keepers of other versions: the real one of the last version, and an installation to change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import descartesd
from tests.support.eventually import eventually
from tests.support.server import Server

PREVIOUS: Final = "1.2"
# Its sources as they were, with what they import of the package.
_ARCHIVE: Final = Path(__file__).parents[1] / "data" / f"keeper-{PREVIOUS}.tar.xz"


@contextmanager
def previous_keeper(server: Server) -> Iterator[int]:
    """Run the keeper of the previous version where the server looks for its own; its pid."""
    place = server.root / "previous"
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    output = server.directory / "state" / "output"
    output.mkdir(parents=True, exist_ok=True)
    socket = server.directory / "run" / "keeper.sock"
    socket.parent.mkdir(exist_ok=True)
    keeper = subprocess.Popen(
        [
            *(sys.executable, "-m", "descartesd.keeper"),
            *("--socket", socket, "--output-dir", output),
        ],
        env={**os.environ, "PYTHONPATH": str(place), "TMPDIR": str(server.root)},
        cwd="/",
    )
    try:
        eventually(socket.exists, timeout=20)
        yield keeper.pid
    finally:
        keeper.terminate()
        keeper.wait()


class Installation:
    """A copy of the package that a server runs from, to be upgraded under it."""

    def __init__(self, server: Server) -> None:
        self.package = server.root / "site" / "descartesd"
        shutil.copytree(Path(descartesd.__file__).parent, self.package)
        server.environ["PYTHONPATH"] = str(self.package.parent)

    def change(self, module: str, text: str) -> None:
        """Add to a module of the keeper, as another version would have it."""
        path = self.package / "keeper" / f"{module}.py"
        path.write_text(f"{path.read_text()}\n{text}\n")
