"""Signals the keeper gets, turned into calls from its loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from descartesd.keeper.loop import Loop

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
# By default these end a process; nothing but a request or _ENDING ends the keeper.
_WITHOUT_EFFECT: Final = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGPIPE, signal.SIGXFSZ,
)  # fmt: skip


def reset_ignored() -> None:
    """Default every ignored signal: agents would inherit it from the keeper."""
    for signum in signal.valid_signals():
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def unblock_all() -> None:
    """Let every signal through: agents would inherit what is blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def block_all() -> None:
    """Have every signal wait; over execve(2) too."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


class Signals:
    """Handlers are functions, never SIG_IGN: execve(2) resets functions and keeps SIG_IGN."""

    def __init__(
        self, loop: Loop, *, on_child: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._on_child = on_child
        self._on_end = on_end
        self._came: set[int] = set()
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, *_ENDING, *_WITHOUT_EFFECT):
            signal.signal(signum, self._note)
        loop.watch(self._reader, self._on_ready)

    @property
    def is_end_asked_for(self) -> bool:
        """Whether a signal has come, and nobody was called for it yet, that ends the keeper."""
        return not self._came.isdisjoint(_ENDING)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._came.add(signum)

    def _on_ready(self, _mask: int) -> None:
        # The pipe only wakes the loop: when it is full it loses bytes, the set loses nothing.
        os.read(self._reader, 65536)
        came, self._came = self._came, set()
        if signal.SIGCHLD in came:
            self._on_child()
        if not came.isdisjoint(_ENDING):
            self._on_end()
