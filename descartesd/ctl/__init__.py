"""The program descartesctl; interrupted while it still loads, it ends as quietly as later on."""

from __future__ import annotations

# The module signal builds enums of it, which would be the one thing to load before the handler.
import _signal  # type: ignore[import-not-found]
import os
import sys

INTERRUPTED = 130
_PROGRAM = "descartesctl"


def end_when_interrupted() -> None:
    """From now on an interrupt ends the program at once: for imports, with nothing to undo.

    A KeyboardInterrupt would be a traceback there, or be lost: importlib's own callbacks eat it.
    """
    # Whoever has it ignored has a reason.
    is_usual = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if is_usual and os.path.basename(sys.argv[0]) == _PROGRAM:
        _signal.signal(_signal.SIGINT, _end)


def be_interruptible() -> None:
    """From now on an interrupt is a KeyboardInterrupt again."""
    if _signal.getsignal(_signal.SIGINT) is _end:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)


end_when_interrupted()
