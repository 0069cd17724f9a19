"""What /proc says about processes (proc(5)); a process that is gone reads as None or empty."""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

ID_VARIABLE: Final = b"DESCARTES_AGENT_ID="

# Of a task in one of these nothing runs: stopped, traced, zombie, dead, and asleep in the kernel
# without heeding signals, where a pending SIGSTOP takes it before its next instruction.
STILL: Final = "TtZXD"
_GONE: Final = "ZX"
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One line of /proc/PID/stat; start_time in ticks since the host started.

    `ticks` is the processor time of it and of the children it has waited for.
    """

    pid: int
    start_time: int
    ppid: int
    group: int
    session: int
    state: str
    threads: int
    ticks: int = 0
    resident_pages: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left but its status.

        A main thread that has exited before the others (pthread_exit(3)) is a zombie too.
        """
        return self.state in _GONE and self.threads <= 1


def read(pid: int) -> Process | None:
    """One process."""
    line = _contents(f"/proc/{pid}/stat", is_one_record=True)
    if not line:
        return None
    fields = line[line.rindex(b")") + 2 :].split(None, 22)
    return Process(
        pid=pid,
        start_time=int(fields[19]),
        ppid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        state=fields[0].decode(),
        threads=int(fields[17]),
        ticks=sum(map(int, fields[11:15])),
        resident_pages=int(fields[21]),
    )


def start_time(pid: int) -> int | None:
    """When one process was started, in ticks since the host was."""
    line = _contents(f"/proc/{pid}/stat", is_one_record=True)
    return int(line[line.rindex(b")") + 2 :].split(None, 20)[19]) if line else None


def now() -> int:
    """The time in ticks, as start times are told (proc(5))."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK_NS


def is_still(process: Process) -> bool:
    """Whether no thread of it runs."""
    if process.threads == 1:
        return process.state in STILL
    for tid in _names(f"/proc/{process.pid}/task"):
        line = _contents(f"/proc/{process.pid}/task/{tid}/stat", is_one_record=True)
        if line and chr(line[line.rindex(b")") + 2]) not in STILL:
            return False
    return True


def knows_children() -> bool:
    """Whether this kernel lists children (CONFIG_PROC_CHILDREN)."""
    return os.path.exists("/proc/self/task/self/children") or os.path.exists(
        f"/proc/self/task/{os.getpid()}/children"
    )


def children(pid: int, threads: int) -> list[int]:
    """The pids of its children, those of all its threads."""
    tids = [str(pid)] if threads == 1 else _names(f"/proc/{pid}/task")
    listed = b"".join(_contents(f"/proc/{pid}/task/{tid}/children") for tid in tids)
    return [int(child) for child in listed.split()]


def agent_id(pid: int) -> str | None:
    """The value of DESCARTES_AGENT_ID it was started with."""
    environ = _contents(f"/proc/{pid}/environ")
    if environ.startswith(ID_VARIABLE):
        start = len(ID_VARIABLE)
    else:
        found = environ.find(b"\0" + ID_VARIABLE)
        if found < 0:
            return None
        start = found + 1 + len(ID_VARIABLE)
    end = environ.find(b"\0", start)
    return environ[start : end if end >= 0 else None].decode(errors="replace")


def hides_environment(pid: int) -> bool:
    """Whether this process may not read its environment, which is its own user's alone."""
    try:
        os.close(os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def is_beginning(pid: int) -> bool:
    """Whether it has left one program and shows no arguments of the next yet (execve(2))."""
    return not _contents(f"/proc/{pid}/cmdline")


def uid(pid: int) -> int | None:
    """Whose it is."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def owner(pid: int) -> tuple[int, int] | None:
    """Its uid and gid; None where it has several, as what has changed its user."""
    ids = {}
    for line in _contents(f"/proc/{pid}/status").split(b"\n"):
        name, _, values = line.partition(b":")
        if name in (b"Uid", b"Gid"):
            ids[name] = set(map(int, values.split()))
    if not ids or any(len(each) != 1 for each in ids.values()):
        return None
    return ids[b"Uid"].pop(), ids[b"Gid"].pop()


def command(pid: int) -> str:
    """Its command line, at most 200 characters, or its name in brackets when it has none."""
    line = _contents(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ")
    if not line:
        line = b"[" + _contents(f"/proc/{pid}/comm").strip() + b"]"
    return line.decode(errors="replace")[:200]


def pids() -> list[int]:
    """Every process of the host that may be seen."""
    return [int(name) for name in _names("/proc") if name.isdigit()]


def _contents(path: str, *, is_one_record: bool = False) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        # A seq_file hands out whole records: with several a short read does not mean the end.
        parts = [os.read(fd, 4096)]
        while not is_one_record and parts[-1]:
            parts.append(os.read(fd, 4096))
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
