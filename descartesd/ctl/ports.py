"""Which process of this host listens on a tcp port, read from /proc (proc(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_TABLES = ("net/tcp", "net/tcp6")
_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
_INIT = 1
_PORT, _STATE, _UID, _INODE = 1, 3, 7, 9


class Listening(NamedTuple):
    """A listening socket; `pid` and `name` are None if another user's process may not be seen."""

    uid: int
    pid: int | None
    name: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of uid {self.uid}"
        return f"'{self.name}' (pid {self.pid})"


def listening(port: int, *, proc: str = "/proc") -> list[Listening]:
    """Who listens on this tcp port, at any address."""
    sockets = dict(_sockets(port, proc))
    owners = _owners(set(sockets), proc) if sockets else {}
    found = {Listening(uid, *owners.get(inode, (None, None))) for inode, uid in sockets.items()}
    return sorted(found, key=lambda one: (one.pid or 0, one.uid))


def _sockets(port: int, proc: str) -> Iterator[tuple[int, int]]:
    for table in _TABLES:
        try:
            with open(f"{proc}/{table}", encoding="ascii") as lines:
                next(lines, None)
                for line in lines:
                    fields = line.split()
                    if (
                        fields[_STATE] == _LISTEN
                        and int(fields[_PORT].rpartition(":")[2], 16) == port
                    ):
                        yield int(fields[_INODE]), int(fields[_UID])
        except FileNotFoundError:
            continue


def _owners(inodes: set[int], proc: str) -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    for entry in os.listdir(proc):
        if not entry.isdecimal():
            continue
        for inode in _socket_inodes(f"{proc}/{entry}/fd") & inodes:
            # A child may hold a duplicate: the oldest is the one that opened it. systemd keeps one
            # of a service's, and is named only where nobody else has it.
            known = found.get(inode, (int(entry), ""))[0]
            pid = min(int(entry), known, key=lambda each: (each == _INIT, each))
            found[inode] = (pid, _name(proc, pid))
    return found


def _socket_inodes(directory: str) -> set[int]:
    found = set()
    try:
        for fd in os.listdir(directory):
            # Descriptors come and go, the one of this very listing among them.
            with suppress(FileNotFoundError):
                match = _SOCKET.fullmatch(os.readlink(f"{directory}/{fd}"))
                if match is not None:
                    found.add(int(match[1]))
    except OSError:  # another user's process, or one that has just ended
        return found
    return found


def _name(proc: str, pid: int) -> str:
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"
