"""A real server with the plugin, in a directory of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client

PROGRAMS = Path(sys.executable).parent
# Whatever the tests need to be set.
CONFIGURATION = """
[plugins]
enabled = ["template"]

[plugins.template]
label = "squad"
"""


@pytest.fixture(scope="session")
def profile() -> Iterator[Path]:
    """The profile of the administrator of a server that runs."""
    # A short path: that of a Unix socket is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="dsc-", dir="/tmp") as directory:
        home = Path(directory, "server")
        endpoint = f"tcp://127.0.0.1:{_free_port()}"
        subprocess.run(
            [PROGRAMS / "descartesd", "init", home, "--endpoint", endpoint],
            check=True,
            capture_output=True,
        )
        with (home / "descartesd.toml").open("a") as file:
            file.write(CONFIGURATION)
        server = subprocess.Popen([PROGRAMS / "descartesd", "--config", home / "descartesd.toml"])
        try:
            yield home / "profiles" / "admin.toml"
        finally:
            server.terminate()
            server.wait(timeout=30)


@pytest.fixture
def client(profile: Path) -> Iterator[Client]:
    """A client of it."""
    with Client(str(profile), wait_for_server_s=10) as connected:
        yield connected


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
