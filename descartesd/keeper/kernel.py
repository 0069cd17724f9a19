"""The system calls Python has no name for."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION: Final = 0x2008_0522
_CAPABILITY_SETS: Final = 24  # bytes of three sets of 64
_OPENAT2: Final = 437  # openat2(2), the same on every architecture
_AT_FDCWD: Final = -100
_RESOLVE_CACHED: Final = 0x20
_KEEP_SIZE: Final = 0x01  # fallocate(2)
_PUNCH_HOLE: Final = 0x02

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_FALLOCATE: Final = _LIBC.fallocate
_FALLOCATE.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process.

    Raises OSError.
    """
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise _last_error()


def clear_ambient_capabilities() -> None:
    """Let no program started from here on inherit a capability (capabilities(7)).

    This process keeps its own. Raises OSError.
    """
    if _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        raise _last_error()


def raise_ambient_capabilities() -> None:
    """Let the program this process turns into keep the capabilities it was given at its start.

    Those are the ones it may hand on: permitted and inheritable. Raises OSError.
    """
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        sets = dict(line.split(":\t") for line in file if line.startswith("Cap"))
    given = int(sets["CapPrm"], 16) & int(sets["CapInh"], 16)
    for capability in range(given.bit_length()):
        if given >> capability & 1 and (
            _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0
        ):
            raise _last_error()


def drop_capabilities() -> None:
    """Give up every capability of this process for good (capset(2)).

    Raises OSError.
    """
    if _LIBC.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(_CAPABILITY_SETS)) != 0:
        raise _last_error()


def open_cached(path: bytes) -> int:
    """Open a path by what the kernel has in memory of it, as a name only (O_PATH).

    Raises OSError, EAGAIN where a disk or another program would have to be asked, and ENOSYS,
    EINVAL or EPERM where the kernel cannot tell (before Linux 5.12).
    """
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
    fd: int = _LIBC.syscall(_OPENAT2, _AT_FDCWD, path, how, len(how))
    if fd < 0:
        raise _last_error()
    return fd


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range of a file back; its size stays.

    Raises OSError, EOPNOTSUPP where the file system cannot do it.
    """
    if _FALLOCATE(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        raise _last_error()


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
