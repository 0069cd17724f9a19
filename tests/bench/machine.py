"""What the machine is, and what processes on it have used."""

from __future__ import annotations

import os
import platform
import shutil
import time

import zmq

# clock_getcpuclockid(3): the CPU clock of a whole process, by its pid.
_CPUCLOCK_SCHED = 2
_TICKS = os.sysconf("SC_CLK_TCK")
_FILES = 100


def describe(directory: str) -> dict[str, str | int]:
    """What a ratio may depend on; `directory` is where files will be made.

    `load` and `file_us` tell whether the machine is at rest: a new file costs tens of microseconds,
    and hundreds on an ext4 on which thousands have been deleted in the last half minute.
    """
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "load": f"{os.getloadavg()[0]:.1f}",
        "file_us": round(_file_seconds(directory) * 1e6),
    }


def _file_seconds(directory: str) -> float:
    """Seconds to make an empty file."""
    began = time.perf_counter()
    for number in range(_FILES):
        os.close(os.open(f"{directory}/probe-{number}", os.O_WRONLY | os.O_CREAT, 0o600))
    return (time.perf_counter() - began) / _FILES


def cpu_seconds(pid: int) -> float:
    """CPU time all threads of a process have used, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def main_thread_seconds(pid: int) -> float:
    """CPU time the first thread of a process has used, to a clock tick (proc(5))."""
    with open(f"/proc/{pid}/task/{pid}/stat", encoding="ascii") as file:
        # The program's name, in brackets, may hold spaces.
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_kib(pid: int) -> dict[str, int]:
    """`VmRSS`, `RssAnon` and `Pss` of a process in KiB (proc(5))."""
    wanted = {"VmRSS", "RssAnon", "Pss"}
    found = {}
    for name in ("status", "smaps_rollup"):
        with open(f"/proc/{pid}/{name}", encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key in wanted:
                    found[key] = int(value.split()[0])
    return found


def require_space(directory: str, needed: int) -> None:
    """Refuse to fill a disk: `needed` bytes must leave at least 1 GiB; raises OSError."""
    free = shutil.disk_usage(directory).free
    if free < needed + (1 << 30):
        raise OSError(
            f"'{directory}' has {free >> 20} MiB free, and this row may write {needed >> 20} MiB"
        )
