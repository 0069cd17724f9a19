"""Counts what one identity uses up, in constant time for each request."""

from __future__ import annotations

import math

from msgspec import Raw

from descartesd.config.role import Quotas
from descartesd.errors import ResourceExhaustedError
from descartesd.wire import codec

_NS = 1_000_000_000
_MS = 1_000_000
# How long to wait for what nobody can foresee: the end of a stream, or of an agent.
SOON_S = 1.0


class Bucket:
    """Holds so many tokens, full at first, and gets them back evenly in `period_s` seconds."""

    __slots__ = ("_each_ns", "_full_ns", "_left_ns", "_seen_ns")

    def __init__(self, most: int, period_s: float) -> None:
        self._each_ns = int(period_s * _NS / most)
        self._full_ns = self._left_ns = self._each_ns * most
        self._seen_ns = 0

    def take(self, now_ns: int) -> int:
        """Take a token, at a time of a clock that only goes on; ns until there is one, else 0."""
        left = self._left_ns + now_ns - self._seen_ns
        self._seen_ns = now_ns
        left = min(left, self._full_ns)
        if left < self._each_ns:
            self._left_ns = left
            return self._each_ns - left
        self._left_ns = left - self._each_ns
        return 0


class Meter:
    """What one identity has used of its quotas, over all its connections."""

    __slots__ = (
        "_identity",
        "_refusal",
        "_refused_ms",
        "_spawns",
        "_streams",
        "quotas",
        "requests",
    )

    def __init__(self, identity: str, quotas: Quotas) -> None:
        self._identity = identity
        self.quotas = quotas
        # Shared with the meter that takes this one's place: a stream is closed where it was opened.
        self._streams = [0]
        self.requests = _bucket(quotas.requests_per_second, 1.0)
        self._spawns = _bucket(quotas.spawns_per_minute, 60.0)
        self._refused_ms = -1
        self._refusal = Raw()

    def too_many_requests(self, wait_ns: int) -> Raw:
        """The error of a request for which there is no token for so long, as it travels.

        Made once for each millisecond that is told: a flood is answered with the same bytes.
        """
        wait_ms = wait_ns // _MS
        if wait_ms != self._refused_ms:
            rule = f"it may send {self.quotas.requests_per_second} requests a second"
            error = self._over(f"{rule} (requests_per_second)", (wait_ms + 1) / 1000)
            self._refused_ms, self._refusal = wait_ms, Raw(codec.encode(codec.wire_error(error)))
        return self._refusal

    def spawn(self, now_ns: int) -> None:
        """Count one start; raises ResourceExhaustedError."""
        wait_ns = 0 if self._spawns is None else self._spawns.take(now_ns)
        if wait_ns:
            raise self._over(
                f"it may start {self.quotas.spawns_per_minute} agents a minute (spawns_per_minute)",
                wait_ns / _NS,
            )

    def open_stream(self) -> None:
        """Count one stream more; raises ResourceExhaustedError."""
        most = self.quotas.streams
        if most is not None and self._streams[0] >= most:
            raise self._over(f"it may have {most} streams open (streams)", SOON_S)
        self._streams[0] += 1

    def close_stream(self) -> None:
        """Count one stream less."""
        self._streams[0] -= 1

    def inherit(self, before: Meter) -> None:
        """Go on with what is open since before the roles changed."""
        self._streams = before._streams  # of its own kind

    def _over(self, rule: str, wait_s: float) -> ResourceExhaustedError:
        return over_quota(f"{self._identity} is over its quota: {rule}", wait_s)


def over_quota(message: str, wait_s: float) -> ResourceExhaustedError:
    """The error of who has used up a quota, with the seconds after which to ask again."""
    after_s = max(math.ceil(wait_s * 1000) / 1000, 0.001)
    return ResourceExhaustedError(
        message,
        hint=f"ask again in {after_s:g} s",
        details={"retry_after_s": after_s},
    )


def _bucket(most: int | None, period_s: float) -> Bucket | None:
    return None if most is None else Bucket(most, period_s)
