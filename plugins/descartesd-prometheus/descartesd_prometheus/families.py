"""From the metrics of descartesd to those of prometheus-client, which writes the formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from descartesd.api import Distribution, MetricFamily


class Collected(Collector):
    """Metrics that have been read already."""

    def __init__(self, families: Iterable[MetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Each of them, as prometheus-client has it."""
        return map(_translated, self._families)


def _translated(family: MetricFamily) -> Metric:
    if family.kind == "counter":
        # It takes the name without `_total`, and writes it where the format has it.
        translated: Metric = CounterMetricFamily(family.name, family.help, labels=())
    else:
        translated = Metric(family.name, family.help, family.kind)
    for sample in family.samples:
        labels = dict(sample.labels)
        if isinstance(sample, Distribution):
            _add_distribution(translated, sample, labels)
        else:
            translated.add_sample(family.name, labels, sample.value)
    return translated


def _add_distribution(to: Metric, sample: Distribution, labels: dict[str, str]) -> None:
    bounds = [*map(floatToGoString, sample.bounds), "+Inf"]
    total = 0
    for bound, total in zip(bounds, accumulate(sample.counts), strict=True):
        to.add_sample(f"{to.name}_bucket", {**labels, "le": bound}, total)
    to.add_sample(f"{to.name}_count", labels, total)
    to.add_sample(f"{to.name}_sum", labels, sample.sum)
