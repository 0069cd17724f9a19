"""The terminal descartesctl itself runs on: its size, and its raw mode."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Iterator

# Indices of what tcgetattr(3) tells.
_INPUT, _OUTPUT, _CONTROL, _LOCAL, _CHARACTERS = 0, 1, 2, 3, 6
_MOST = 4096
# _POSIX_VDISABLE, termios(3).
_DISABLED = b"\0"


def size_of(*descriptors: int) -> tuple[int, int] | None:
    """Rows and columns of the first of these that is a terminal and knows them."""
    for descriptor in descriptors:
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if rows > 0 and columns > 0:
            return min(rows, _MOST), min(columns, _MOST)
    return None


@contextlib.contextmanager
def raw(descriptor: int, *, signals: bool) -> Iterator[None]:
    """Have every key told at once and as it is, and nothing shown or done with it; cfmakeraw(3).

    With `signals` ctrl-C still interrupts, and no other key sends a signal. What was before is
    restored at the end of the block.
    """
    before = termios.tcgetattr(descriptor)
    mode = termios.tcgetattr(descriptor)
    mode[_INPUT] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    mode[_OUTPUT] &= ~termios.OPOST
    mode[_CONTROL] = (mode[_CONTROL] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    mode[_LOCAL] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    if not signals:
        mode[_LOCAL] &= ~termios.ISIG
    mode[_CHARACTERS][termios.VMIN], mode[_CHARACTERS][termios.VTIME] = 1, 0
    for key in (termios.VQUIT, termios.VSUSP):
        mode[_CHARACTERS][key] = _DISABLED
    termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
    try:
        yield
    finally:
        # What was typed for the agent is not for the shell.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
