"""Processes as the kernel shows them (proc(5)): what really runs, whatever a server says."""

from __future__ import annotations

import os
from contextlib import suppress

_ENDED = b"ZX"
_USER_TICKS, _SYSTEM_TICKS = 11, 12


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has only not been reaped yet does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in _ENDED


def cpu_ticks(pid: int) -> int:
    """Processor time a process has used, in clock ticks; 0 once it is gone."""
    fields = _stat(pid)
    return int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS]) if fields else 0


def command(pid: int) -> list[str]:
    """The argument vector; empty once the process is gone."""
    return _read(pid, "cmdline").decode("utf-8", "replace").split("\0")[:-1]


def inside(directory: str) -> list[int]:
    """Every other live process that works inside a directory, or is told of it by an argument."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if pid != os.getpid() and _is_inside(pid, f"{directory}/")]


def _is_inside(pid: int, prefix: str) -> bool:
    working_dir = ""
    with suppress(OSError):  # another user's, or gone
        working_dir = os.readlink(f"/proc/{pid}/cwd")
    if not any(place.startswith(prefix) for place in (f"{working_dir}/", *command(pid))):
        return False
    return is_alive(pid)


def _stat(pid: int) -> list[bytes]:
    """The fields behind the name, from the state on."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
