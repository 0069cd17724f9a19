"""Reads every metric when somebody wants to see it; until then nothing is done for it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from descartesd.errors import StartupRefusedError
from descartesd.metric import Distribution, Metric, MetricFamily, Sample

log = logging.getLogger(__name__)

# Whoever asks more often gets the same numbers: nobody may keep the loop busy with reading.
_FRESH_S = 0.1
# So many samples a metric has at most: a label with a value for each request would fill the memory
# of whoever stores them.
SAMPLES_MAX = 1000


class Readings:
    """All metrics of a server. Not thread-safe: it lives in the event loop's thread."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._origins: dict[str, str] = {}
        self._last: tuple[float, list[MetricFamily]] = (-_FRESH_S, [])
        self._complained: set[str] = set()
        # Readings that failed, by metric.
        self.failures: Counter[str] = Counter()
        # Told of everything that is read.
        self.on_collected: Callable[[list[MetricFamily]], None] = _nobody_asks

    def add(self, metrics: Iterable[Metric], origin: str) -> None:
        """Take in metrics of a plugin, or of the server itself.

        Raises StartupRefusedError when a name is taken.
        """
        for metric in metrics:
            if metric.name in self._metrics:
                raise StartupRefusedError(
                    f"plugin '{origin}' registers the metric '{metric.name}', which"
                    f" '{self._origins[metric.name]}' has registered"
                )
            self._metrics[metric.name] = metric
            self._origins[metric.name] = origin

    def collect(self) -> list[MetricFamily]:
        """Read every metric now, in the event loop."""
        now = time.monotonic()
        at, families = self._last
        if now - at >= _FRESH_S:
            families = [found for each in self._metrics.values() if (found := self._family(each))]
            self._last = now, families
            self.on_collected(families)
        return families

    def _family(self, metric: Metric) -> MetricFamily | None:
        """One metric as it is now; None when it cannot be read, which harms no other."""
        try:
            samples = tuple(_samples(metric))
        except Exception as exc:  # noqa: BLE001  # a bug of one metric leaves all others readable
            self._complain(metric, f"{type(exc).__name__}: {exc}")
            self.failures[metric.name] += 1
            return None
        if len(samples) > SAMPLES_MAX:
            self._complain(metric, f"{len(samples)} samples, the first {SAMPLES_MAX} are shown")
            samples = samples[:SAMPLES_MAX]
        return MetricFamily(name=metric.name, kind=metric.kind, help=metric.help, samples=samples)

    def _complain(self, metric: Metric, cause: str) -> None:
        if metric.name not in self._complained:
            self._complained.add(metric.name)
            origin = self._origins[metric.name]
            log.error(
                "metric.unreadable",
                extra={"metric": metric.name, "plugin": origin, "cause": cause},
            )


def _samples(metric: Metric) -> Iterator[Sample | Distribution]:
    """What is read of a metric; raises ValueError or TypeError where it does not fit."""
    found = metric.read()
    if isinstance(found, int | float):
        found = (Sample(value=found),)
    wanted = Distribution if metric.kind == "histogram" else Sample
    for each in found:
        if not isinstance(each, wanted):
            raise TypeError(f"it has a {type(each).__name__}, expected {wanted.__name__}")
        if isinstance(each, Distribution) and len(each.counts) != len(each.bounds) + 1:
            raise ValueError("it has not one count more than bounds")
        yield each


def _nobody_asks(_families: list[MetricFamily]) -> None:
    return None
