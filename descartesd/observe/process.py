"""What a process uses, and how much memory there is where it lives: read from /proc and cgroups."""

from __future__ import annotations

import os
import re
import resource
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CGROUPS = "/sys/fs/cgroup"


class Use(NamedTuple):
    """Of one process; bytes and seconds."""

    cpu_s: float
    memory_bytes: int
    threads: int
    open_fds: int | None
    max_fds: int


class Memory(NamedTuple):
    """Bytes in use and bytes there are."""

    used: int
    limit: int


def use_of(pid: int) -> Use | None:
    """What a process uses now; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Its name may have spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Use(
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        memory_bytes=int(fields[21]) * _PAGE,
        threads=int(fields[17]),
        open_fds=_open_fds(pid),
        max_fds=_max_fds(pid),
    )


def _open_fds(pid: int) -> int | None:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        # That of another user cannot be looked into.
        return None


def _max_fds(pid: int) -> int:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return 0


def scarcest_memory() -> Memory | None:
    """The memory of the host, or of the cgroup around this process that is fuller than it."""
    found = [_host_memory(), *map(_cgroup_memory, _cgroups())]
    return max((each for each in found if each), key=lambda each: each.used / each.limit)


def _host_memory() -> Memory | None:
    with open("/proc/meminfo", encoding="ascii") as file:
        sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", file.read(), re.MULTILINE))
    total, free = int(sizes["MemTotal"]) << 10, int(sizes["MemAvailable"]) << 10
    return Memory(total - free, total)


def _cgroups() -> list[str]:
    """Directories of the cgroups (version 2) this process is in, innermost first."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        inner = next((line[3:].strip() for line in file if line.startswith("0::")), None)
    if inner is None or "/../" in inner:
        return []
    parts = inner.strip("/").split("/")
    return [os.path.join(_CGROUPS, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _cgroup_memory(directory: str) -> Memory | None:
    """What is used of a cgroup's memory, without what it only keeps of files; None: no limit."""
    try:
        limit = _text(directory, "memory.max").strip()
        used = int(_text(directory, "memory.current"))
        cached = re.search(r"^inactive_file (\d+)$", _text(directory, "memory.stat"), re.MULTILINE)
    except OSError:
        return None
    if not limit.isdigit() or not int(limit):
        return None
    return Memory(max(used - int(cached[1] if cached else 0), 0), int(limit))


def _text(directory: str, name: str) -> str:
    with open(os.path.join(directory, name), encoding="ascii") as file:
        return file.read()
