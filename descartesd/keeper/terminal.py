"""An agent's terminal: a pty (pty(7)) whose master we pump and write to like a pipe."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from typing import Final, NamedTuple

from descartesd.errors import ConflictError

SIDE_MAX: Final = 65_535  # struct winsize has unsigned shorts, TIOCSWINSZ(2const)
_END_OF_FILE: Final = b"\x04"
_DISABLED: Final = b"\0"  # _POSIX_VDISABLE, termios(3)
_CHARACTERS: Final = 6
_WINSIZE: Final = struct.Struct("4H")  # rows, columns, and both in pixels


class Size(NamedTuple):
    """What fits on the screen, in characters."""

    rows: int
    cols: int


class Terminal:
    """The terminal of one attempt; keeps the agent's side open until its leader has exited.

    So a program that closes its terminal and opens it again by /dev/tty is not hung up on.
    """

    __slots__ = ("_slave",)

    def __init__(self, slave: int) -> None:
        self._slave = slave

    @property
    def descriptor(self) -> int:
        """The agent's side of it."""
        return self._slave

    def resize(self, size: Size) -> None:
        """Change the size; the foreground processes get SIGWINCH if it is another one.

        Raises ConflictError for a terminal that has been taken from its processes (vhangup(2)).
        """
        try:
            _set_size(self._slave, size)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            raise ConflictError("the agent's terminal has been hung up") from exc

    def end_of_file(self) -> bytes:
        """The character that means end of file on it now, ^D where it has none."""
        try:
            character = termios.tcgetattr(self._slave)[_CHARACTERS][termios.VEOF]
        except termios.error:
            return _END_OF_FILE
        return _END_OF_FILE if character == _DISABLED else bytes(character)

    def close(self) -> None:
        """Leave the terminal to whoever else has it open; the last one ends its output."""
        os.close(self._slave)


def open_terminal(size: Size) -> tuple[int, int]:
    """A new terminal of this size: our side, which never blocks, and the agent's.

    Raises OSError, ENOSPC where the host has no more (kernel.pty.max, pty(7)).
    """
    master, slave = os.openpty()
    try:
        _set_size(slave, size)
        os.set_blocking(master, False)
    except OSError:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def take_as_controlling() -> None:
    """Make stdin the controlling terminal of this process, which leads a session without one.

    To be called in the child, between fork and execve(2).
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _set_size(fd: int, size: Size) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINSIZE.pack(*size, 0, 0))
