"""Counts failed attempts by address, and closes the door to who fails too often."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

MOST = 5
WINDOW_S = 60.0
# So many addresses are remembered; who comes from more of them is no single attacker.
_ADDRESSES = 1000


class Failures:
    """Failed attempts of the last minute; the last of `most` closes until the first is that old."""

    def __init__(self, most: int = MOST, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, address: str) -> bool:
        """Count one; whether it closes the door."""
        times = self._times.setdefault(address, deque(maxlen=self._most))
        self._times.move_to_end(address)
        if len(self._times) > _ADDRESSES:
            self._times.popitem(last=False)
        was_closed = self.is_closed(address)
        times.append(self._clock())
        return not was_closed and self.is_closed(address)

    def is_closed(self, address: str) -> bool:
        """Whether nobody from there is listened to now."""
        times = self._times.get(address)
        return (
            times is not None and len(times) == self._most and self._clock() - times[0] < WINDOW_S
        )
