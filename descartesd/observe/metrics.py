"""What is counted while requests are answered: plain numbers, for whoever reports them."""

from __future__ import annotations

from collections import Counter
from time import perf_counter_ns

from descartesd.metric import Distribution
from descartesd.wire.server import Histogram, MethodStats

# The first bucket takes what lasted less than 2**_FIRST_BIT ns, each further one twice as much.
_FIRST_BIT = 10
_BOUNDS = 28
# A length of time in ns that is bound to have fewer bits (36 years).
_BITS = 60
# What lasted less than 131 us is shown to monitoring as one.
_FIRST_SHOWN = 7
BOUNDS_S = [(1 << (_FIRST_BIT + number)) / 1e9 for number in range(_BOUNDS)]


class MethodMetrics:
    """Requests for one method, and how long their answers took, from 1.024 us to 137 s and beyond.

    Adding to it is part of every request: two numbers and a list, no calls.
    """

    __slots__ = ("_counts", "_sum_ns", "broken_off", "refused", "requests")

    def __init__(self) -> None:
        self.requests = 0
        # By error code: the answers that were errors, and the open streams that ended with one.
        self.refused: Counter[str] = Counter()
        self.broken_off: Counter[str] = Counter()
        self._counts = [0] * (_BITS - _FIRST_BIT)
        self._sum_ns = 0

    def answered(self, began_ns: int) -> None:
        """Note the answer to a request that came at this `perf_counter_ns`."""
        ns = perf_counter_ns() - began_ns
        self._counts[(ns >> _FIRST_BIT).bit_length()] += 1
        self._sum_ns += ns

    def failed(self, code: str, *, is_answered: bool = False) -> None:
        """Note an error; `is_answered`: it ends a stream whose request was answered before."""
        (self.broken_off if is_answered else self.refused)[code] += 1

    def codes(self) -> dict[str, int]:
        """How many answers there were of each kind: `ok`, or an error's code."""
        return {"ok": sum(self._counts) - self.refused.total(), **self.refused}

    def distribution(self, method: str) -> Distribution:
        """How long answers took, without the bounds that tell little."""
        counts = self._counts
        return Distribution(
            bounds=BOUNDS_S[_FIRST_SHOWN:],
            counts=[
                sum(counts[: _FIRST_SHOWN + 1]),
                *counts[_FIRST_SHOWN + 1 : _BOUNDS],
                sum(counts[_BOUNDS:]),
            ],
            sum=self._sum_ns / 1e9,
            labels={"method": method},
        )

    def stats(self) -> MethodStats:
        """As clients see it, with the median and the 99th percentile as the buckets tell them."""
        counts = [*self._counts[:_BOUNDS], sum(self._counts[_BOUNDS:])]
        latency = Histogram(
            counts=counts,
            sum_s=self._sum_ns / 1e9,
            p50_s=quantile(counts, 0.50),
            p99_s=quantile(counts, 0.99),
        )
        failures = self.refused.total() + self.broken_off.total()
        return MethodStats(requests=self.requests, failures=failures, latency=latency)


class RequestMetrics:
    """All requests: those by method, and the codes of the refused ones."""

    def __init__(self) -> None:
        # Requests without a method this server has, and those over a rate, which are not read, by
        # the code of their answer.
        self.unknown: Counter[str] = Counter()
        self.methods: dict[str, MethodMetrics] = {}

    def method(self, name: str) -> MethodMetrics:
        """The numbers of one method."""
        return self.methods.setdefault(name, MethodMetrics())

    @property
    def requests(self) -> int:
        """All of them."""
        return self.unknown.total() + sum(method.requests for method in self.methods.values())

    @property
    def errors(self) -> Counter[str]:
        """All errors by their code."""
        found = Counter(self.unknown)
        for method in self.methods.values():
            found.update(method.refused)
            found.update(method.broken_off)
        return found


class Traffic:
    """What goes through the control socket; a client is a connection that has asked something."""

    __slots__ = ("bytes_received", "bytes_sent", "clients", "clients_seen", "dropped")

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        # Descriptors of the connections there are now.
        self.clients: set[int] = set()
        self.clients_seen = 0
        # Messages of too many frames.
        self.dropped = 0


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
