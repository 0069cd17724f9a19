"""Plays systemd's part for one server: listens to its notices, keeps what it hands over."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.server import BIN, Server

Notice = dict[str, str]
_MOST_FDS = 16
# Above those descriptors are passed on as.
_OUT_OF_THE_WAY = 20
_PASS_ON = """
import os, sys
for number, fd in enumerate(sys.argv[1].split()):
    os.dup2(int(fd), 3 + number)
    os.close(int(fd))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Hearing:
    """A notify socket and what came over it, in order; `kept` are descriptors by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._heard: list[Notice] = []
        self.kept: dict[str, list[int]] = {}

    @property
    def notices(self) -> list[Notice]:
        """Everything told so far."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 65536, _MOST_FDS)
            except BlockingIOError:
                return self._heard
            lines = data.decode().splitlines()
            notice = dict(line.split("=", 1) for line in lines)
            self._heard.append(notice)
            self._keep(notice, fds)

    def _keep(self, notice: Notice, fds: list[int]) -> None:
        name = notice.get("FDNAME", "stored")
        if notice.get("FDSTOREREMOVE") == "1":
            for fd in self.kept.pop(name, []):
                os.close(fd)
        elif notice.get("FDSTORE") == "1":
            self.kept.setdefault(name, []).extend(fds)
        else:
            assert not fds

    def values(self, field: str) -> list[str]:
        """Every value of a field, in the order it was told."""
        return [notice[field] for notice in self.notices if field in notice]

    @property
    def status(self) -> str:
        """The last STATUS."""
        return self.values("STATUS")[-1]

    def forget(self) -> None:
        """Begin anew, as for another start."""
        self._heard = [notice for notice in self.notices if False]

    def close(self) -> None:
        for fds in self.kept.values():
            for fd in fds:
                os.close(fd)
        self._socket.close()


class Managed(Server):
    """A server that is started as systemd starts one."""

    def __init__(self, watchdog_s: float | None = None, **settings: object) -> None:
        super().__init__({name.replace("__", "."): value for name, value in settings.items()})
        self.hearing = Hearing(self.root / "notify")
        self.runtime = self.root / "runtime"
        self.runtime.mkdir()
        self.environ["NOTIFY_SOCKET"] = str(self.hearing.path)
        self.environ["RUNTIME_DIRECTORY"] = str(self.runtime)
        if watchdog_s is not None:
            self.environ["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))

    def start(self, *, wait: bool = True) -> None:
        """Start it with everything that is kept; with `wait`, until it says that it is ready."""
        self.hearing.forget()
        kept = [(name, fd) for name, fds in self.hearing.kept.items() for fd in fds]
        # Numbers mean nothing: the order differs from start to start.
        kept.reverse()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for _, fd in kept]
        listen = {
            "LISTEN_FDS": str(len(kept)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in kept),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", _PASS_ON, " ".join(map(str, high)),
                 BIN / "descartesd", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environ, **(listen if kept else {})},
                pass_fds=high,
            )  # fmt: skip
        for fd in high:
            os.close(fd)
        if wait:
            eventually(lambda: "1" in self.hearing.values("READY"), timeout=20)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.hearing.close()


@contextmanager
def managed(watchdog_s: float | None = None, **settings: object) -> Iterator[Managed]:
    """Run a server as systemd would for the time of a block."""
    with Managed(watchdog_s, **settings) as server:
        server.start()
        yield server
