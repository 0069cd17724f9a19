"""Enters the directory an agent is started in, where it may be in some directories only.

The directory is opened first and looked at then: links on the way may be others a moment later, a
descriptor stays what it is.
"""

from __future__ import annotations

import errno
import os


def enter(path: str, within: list[str]) -> None:
    """Make a directory this process's own.

    With `within` it must really be one of these or below one. Raises OSError, of errno EXDEV
    where it is elsewhere.
    """
    if not within:
        os.chdir(path.encode())
        return
    fd = open_within(path, within)
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)


def open_within(path: str, within: list[str]) -> int:
    """Open a directory that really is one of these or below one; raises OSError as `enter`."""
    name = path.encode()
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        real = os.readlink(f"/proc/self/fd/{fd}".encode())
    except OSError:
        os.close(fd)
        raise
    if any(_is_below(real, each.encode()) for each in within):
        return fd
    os.close(fd)
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)


def _is_below(real: bytes, prefix: bytes) -> bool:
    return real == prefix or real.startswith(prefix.rstrip(b"/") + b"/")
