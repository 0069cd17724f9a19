"""Histograms by powers of two, and what is read from them."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter_ns

import pytest

from descartesd.observe.metrics import BOUNDS_S, MethodMetrics, RequestMetrics, quantile


def lasted(*lengths_ns: int) -> MethodMetrics:
    metrics = MethodMetrics()
    for ns in lengths_ns:
        metrics.answered(perf_counter_ns() - ns)
    return metrics


def test_answer_is_counted_in_the_bucket_of_its_length() -> None:
    counts = lasted(1_500_000).stats().latency.counts

    (bucket,) = (number for number, count in enumerate(counts) if count)
    assert BOUNDS_S[bucket - 1] < 0.0015 <= BOUNDS_S[bucket]


def test_longer_than_every_bound_is_counted_last() -> None:
    latency = lasted(1000 * 10**9).stats().latency

    assert latency.counts[-1] == 1
    assert len(latency.counts) == len(BOUNDS_S) + 1
    assert latency.sum_s == pytest.approx(1000, rel=0.01)
    assert latency.p50_s == BOUNDS_S[-1]


def test_bounds_double_from_about_a_microsecond() -> None:
    assert BOUNDS_S[0] == pytest.approx(1.024e-6)
    assert all(after == pytest.approx(2 * before) for before, after in pairwise(BOUNDS_S))


def test_quantiles_lie_in_the_bucket_that_holds_them() -> None:
    latency = lasted(*[100_000] * 98, *[50_000_000] * 2).stats().latency

    assert 65e-6 < latency.p50_s < 132e-6
    assert 33e-3 < latency.p99_s < 68e-3


def test_quantile_is_interpolated_within_a_bucket() -> None:
    counts = [0] * (len(BOUNDS_S) + 1)
    counts[3] = 4

    assert quantile(counts, 0.5) == pytest.approx((BOUNDS_S[2] + BOUNDS_S[3]) / 2)


def test_of_nothing_every_quantile_is_zero() -> None:
    assert quantile([0] * (len(BOUNDS_S) + 1), 0.99) == 0


def test_requests_without_a_method_count_too() -> None:
    metrics = RequestMetrics()
    metrics.method("agent.get").requests += 2
    metrics.unknown["unimplemented"] += 1

    assert metrics.requests == 3
