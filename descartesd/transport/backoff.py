"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S = 0.1
LONGEST_S = 30.0


class Backoff:
    """Doubling pauses with full jitter: a random share of 0.1 s, 0.2 s, 0.4 s … 30 s."""

    __slots__ = ("_ceiling", "_share")

    def __init__(self, share: Callable[[], float] = random.random) -> None:
        self._share = share
        self._ceiling = FIRST_S

    def pause(self) -> float:
        """Seconds to wait now; the next pause may be twice as long."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, LONGEST_S)
        return ceiling * self._share()

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._ceiling = FIRST_S
