"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from collections.abc import Callable

LONGEST_S = 30.0


class Backoff:
    """Doubling pauses with full jitter: a random share of the first, twice that … 30 s."""

    __slots__ = ("_ceiling", "_first_s", "_share")

    def __init__(self, first_s: float, share: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._share = share
        self._ceiling = first_s

    def pause(self) -> float:
        """Seconds to wait now; the next pause may be twice as long."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, LONGEST_S)
        return ceiling * self._share()

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._ceiling = self._first_s
