"""What is counted while requests are answered: plain numbers, for whoever reports them."""

from __future__ import annotations

from collections import Counter
from time import perf_counter_ns

from descartesd.wire.server import Histogram, MethodStats

# The first bucket takes what lasted less than 2**_FIRST_BIT ns, each further one twice as much.
_FIRST_BIT = 10
_BOUNDS = 28
# A length of time in ns that is bound to have fewer bits (36 years).
_BITS = 60
BOUNDS_S = [(1 << (_FIRST_BIT + number)) / 1e9 for number in range(_BOUNDS)]


class Latency:
    """Lengths of time by powers of two, from 1.024 us to 137 s and beyond."""

    __slots__ = ("_counts", "_sum_ns")

    def __init__(self) -> None:
        self._counts = [0] * (_BITS - _FIRST_BIT)
        self._sum_ns = 0

    def add(self, ns: int) -> None:
        """Count one that lasted this many nanoseconds."""
        self._counts[(ns >> _FIRST_BIT).bit_length()] += 1
        self._sum_ns += ns

    def histogram(self) -> Histogram:
        """All of them, with the median and the 99th percentile as the buckets tell them."""
        counts = [*self._counts[:_BOUNDS], sum(self._counts[_BOUNDS:])]
        return Histogram(
            counts=counts,
            sum_s=self._sum_ns / 1e9,
            p50_s=quantile(counts, 0.50),
            p99_s=quantile(counts, 0.99),
        )


def quantile(counts: list[int], share: float) -> float:
    """Seconds that this share took at most, taken to lie evenly within each bucket; 0 for none."""
    wanted = share * sum(counts)
    lower = 0.0
    for count, upper in zip(counts, BOUNDS_S, strict=False):
        if count and count >= wanted:
            return lower + (upper - lower) * wanted / count
        wanted -= count
        lower = upper
    # Of what lasted longer only that much is known.
    return lower if any(counts) else 0.0


class MethodMetrics:
    """Requests for one method, and how long their answers took."""

    __slots__ = ("failures", "latency", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0
        self.latency = Latency()

    def answered(self, began_ns: int) -> None:
        """Note the answer to a request that came at this `perf_counter_ns`."""
        self.latency.add(perf_counter_ns() - began_ns)

    def stats(self) -> MethodStats:
        """As clients see it."""
        return MethodStats(
            requests=self.requests, failures=self.failures, latency=self.latency.histogram()
        )


class Traffic:
    """What goes through the control socket; a client is a connection that has asked something."""

    __slots__ = ("bytes_received", "bytes_sent", "clients", "clients_seen", "dropped", "shed")

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        # Descriptors of the connections there are now.
        self.clients: set[int] = set()
        self.clients_seen = 0
        # Messages of too many frames, and peers that did not read.
        self.dropped = 0
        self.shed = 0


class RequestMetrics:
    """All requests: those by method, and the codes of the refused ones."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[str] = Counter()
        self.methods: dict[str, MethodMetrics] = {}

    def method(self, name: str) -> MethodMetrics:
        """The numbers of one method."""
        return self.methods.setdefault(name, MethodMetrics())
