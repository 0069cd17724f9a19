"""The two system calls Python has no name for."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
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


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range of a file back; its size stays.

    Raises OSError, EOPNOTSUPP where the file system cannot do it.
    """
    if _FALLOCATE(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        raise _last_error()


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
