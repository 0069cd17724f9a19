"""The listening sockets systemd passes on: those it kept of the last start, or of a socket unit."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

_FIRST = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# What this service has put into the store itself; a socket unit's are named otherwise.
KEPT = "control-"

Address = Any  # (host, port, …) on tcp, the path on Unix


class Passed(NamedTuple):
    """One socket and the name systemd has for it."""

    name: str
    socket: socket.socket

    @property
    def is_ours(self) -> bool:
        """Whether it is one kept for this service, which may therefore be given up."""
        return self.name.startswith(KEPT)


class Inherited:
    """What was passed on and has not been taken yet."""

    def __init__(self, passed: list[Passed] | None = None) -> None:
        self._left = passed or []

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Inherited:
        """Take over what the environment names, and the variables out of it: no child's business.

        Names say what a socket is, never its number: the order differs from start to start.
        """
        told = [environ.pop(name, "") for name in _VARIABLES]
        if told[0] != str(os.getpid()) or not told[1].isdecimal():
            return cls()
        count = int(told[1])
        names = told[2].split(":") if told[2] else []
        names += ["unknown"] * (count - len(names))
        return cls([Passed(name, _adopted(_FIRST + n)) for n, name in enumerate(names[:count])])

    def take(self, family: int, fits: Callable[[Address], bool]) -> Passed | None:
        """The first socket of a family whose own address fits; nobody else gets it."""
        for passed in self._left:
            if passed.socket.family == family and fits(passed.socket.getsockname()):
                self._left.remove(passed)
                return passed
        return None

    def rest(self) -> list[Passed]:
        """What nobody wanted; the caller's to close."""
        left, self._left = self._left, []
        return left


def _adopted(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock
