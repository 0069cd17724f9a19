"""circus, a process manager of the same shape (ZeroMQ, Python), to be measured beside ours.

It is installed from the package index into a virtual environment of its own, inside the one this
runs in, once.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import zmq

from tests.bench.wire import Keys, connect
from tests.support.server import free_port

VERSION = "0.19.0"
_INSTALL_S = 180
_END_S = 10


class NotInstalledError(Exception):
    """circus is not here and could not be had."""


class Circus(NamedTuple):
    """A running circusd: its process, where it listens, and its command line."""

    pid: int
    keys: Keys
    ctl: list[str]


def install() -> Path:
    """The directory of its programs; raises NotInstalledError."""
    root = Path(sys.prefix, "bench", f"circus-{VERSION}")
    ready = root / ".ready"
    if not ready.exists():
        pip = [str(root / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _do([sys.executable, "-m", "venv", str(root)])
        _do([*pip, "install", f"circus=={VERSION}"])
        ready.touch()
    return root / "bin"


def _do(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.CalledProcessError as exc:
        said = (exc.stderr or exc.stdout).strip().splitlines() or [str(exc)]
        raise NotInstalledError(f"circus {VERSION} cannot be installed: {said[-1]}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotInstalledError(f"circus {VERSION} cannot be installed: {exc}") from exc


@contextmanager
def running(scratch: Path) -> Iterator[Circus]:
    """Run a circusd without watchers for the time of a block; raises NotInstalledError."""
    programs = install()
    endpoint, events = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    config = scratch / "circus.ini"
    config.write_text(f"[circus]\nendpoint = {endpoint}\npubsub_endpoint = {events}\n")
    with psutil.Popen(
        [programs / "circusd", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            ctl = [str(programs / "circusctl"), "--endpoint", endpoint]
            yield Circus(process.pid, Keys(endpoint), ctl)
        finally:
            _end(process)


def _end(process: psutil.Popen) -> None:
    family = [process, *process.children(recursive=True)]
    process.terminate()
    # It ends its children in order; what it leaves is ended here.
    for left in psutil.wait_procs(family, timeout=_END_S)[1]:
        left.kill()


class Caller:
    """A connection to a circusd; every reply must be good."""

    def __init__(self, circus: Circus) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect(self._context, circus.keys)
        self._names = (f"watcher-{number}" for number in itertools.count())

    def close(self) -> None:
        """Close the connection."""
        self._context.destroy(linger=0)

    def call(self, command: str, **properties: Any) -> dict[str, Any]:
        """Ask and wait."""
        self._socket.send(json.dumps(request(command, **properties)).encode())
        reply: dict[str, Any] = json.loads(self._socket.recv())
        if reply["status"] == "error":
            raise RuntimeError(f"circus refused: {reply['reason']}")
        return reply

    def add(self, command: list[str]) -> str:
        """Start a process under a watcher of its own, answered when it runs; the watcher's name."""
        name = next(self._names)
        program, *arguments = command
        self.call("add", name=name, cmd=program, args=arguments, start=True, waiting=True)
        return name


def request(command: str, **properties: Any) -> dict[str, Any]:
    """What a Side asks of a circusd."""
    return {"id": 0, "command": command, "properties": properties}
