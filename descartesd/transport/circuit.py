"""Stops asking a server nobody has reached for long, but for one try now and then."""

from __future__ import annotations

import math

from descartesd.transport import causes


class Circuit:
    """Opens after so many failures, each of a request begun after the failure before it.

    A hundred requests that wait through the same outage are thus one failure. What a server
    answers, be it an error, is none.
    """

    __slots__ = ("_count", "_failed_at", "_failures", "_open_until", "_reset_s")

    def __init__(self, *, failures: int, reset_s: float) -> None:
        """`failures` 0: it never opens."""
        self._failures = failures
        self._reset_s = reset_s
        self._count = 0
        self._failed_at = -math.inf
        self._open_until = -math.inf

    def is_open(self, now: float) -> bool:
        """Whether requests fail at once."""
        return now < self._open_until

    def admit(self, now: float, endpoint: str) -> None:
        """Let a request wait for the connection; raises UnavailableError while it is open."""
        if self.is_open(now):
            raise causes.circuit_open(endpoint, self._count, self._open_until - now)
        if self._open_until != -math.inf:
            # One goes through. Whatever becomes of it, another one may after as long again.
            self._open_until = now + self._reset_s

    def failed(self, began: float, now: float) -> None:
        """A request that began to wait at `began` found nobody."""
        if not self._failures or began < self._failed_at:
            return
        self._failed_at = now
        self._count += 1
        if self._count >= self._failures:
            self._open_until = now + self._reset_s

    def close(self) -> None:
        """There is a connection."""
        self._count = 0
        self._open_until = -math.inf
