"""From the metrics of descartesd to the data model of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from descartesd.api import Distribution, MetricFamily, Sample

_SCOPE = InstrumentationScope("descartesd")
_UNITS = {"seconds": "s", "bytes": "By"}


def translated(
    families: Iterable[MetricFamily], resource: Mapping[str, str], *, start_ns: int, now_ns: int
) -> MetricsData:
    """All metrics as of `now_ns`; sums have grown since `start_ns` (nanoseconds of the epoch)."""
    times = (start_ns, now_ns)
    metrics = [_metric(family, times) for family in families if family.samples]
    scope = ScopeMetrics(scope=_SCOPE, metrics=metrics, schema_url="")
    about = Resource(dict(resource))
    return MetricsData([ResourceMetrics(resource=about, scope_metrics=[scope], schema_url="")])


def _metric(family: MetricFamily, times: tuple[int, int]) -> Metric:
    data: Sum | Gauge | Histogram
    if family.kind == "histogram":
        lengths = [each for each in family.samples if isinstance(each, Distribution)]
        points = [_distribution(each, times) for each in lengths]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
    else:
        samples = [each for each in family.samples if isinstance(each, Sample)]
        numbers = [_number(each, times) for each in samples]
        if family.kind == "counter":
            data = Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        else:
            data = Gauge(numbers)
    return Metric(family.name, family.help, _unit(family.name), data)


def _unit(name: str) -> str:
    return _UNITS.get(name.removesuffix("_total").rpartition("_")[2], "1")


def _number(sample: Sample, times: tuple[int, int]) -> NumberDataPoint:
    start_ns, now_ns = times
    return NumberDataPoint(
        attributes=dict(sample.labels),
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        value=float(sample.value),
    )


def _distribution(sample: Distribution, times: tuple[int, int]) -> HistogramDataPoint:
    start_ns, now_ns = times
    return HistogramDataPoint(
        attributes=dict(sample.labels),
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        count=sum(sample.counts),
        sum=sample.sum,
        bucket_counts=list(sample.counts),
        explicit_bounds=list(sample.bounds),
        # Not known: they are left out of what is sent.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )
