"""Bounds how often one identity may connect: a handshake costs as much as dozens of requests."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from descartesd.errors import ResourceExhaustedError
from descartesd.methods.meter import Bucket

# A shell loop of commands stays below; a client that reconnects in a loop does not.
_PER_SECOND = 20
_AT_ONCE = 100


class Knocks:
    """Counts the handshakes of each identity."""

    def __init__(self, *, clock_ns: Callable[[], int] = perf_counter_ns) -> None:
        self._clock_ns = clock_ns
        self._buckets: dict[str, Bucket] = {}

    def take(self, user_id: str) -> None:
        """Count one handshake; raises ResourceExhaustedError for one too many."""
        bucket = self._buckets.get(user_id)
        if bucket is None:
            bucket = self._buckets[user_id] = Bucket(_AT_ONCE, _AT_ONCE / _PER_SECOND)
        if bucket.take(self._clock_ns()):
            raise ResourceExhaustedError(
                f"{user_id} connects more than {_PER_SECOND} times a second"
            )
