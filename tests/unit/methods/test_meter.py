"""Tokens are given back evenly, and what is used is counted exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.config.role import Quotas
from descartesd.errors import ResourceExhaustedError
from descartesd.methods.knocks import Knocks
from descartesd.methods.meter import Bucket, Meter

S = 1_000_000_000


def test_a_bucket_is_full_at_first_and_then_gives_out_its_rate() -> None:
    bucket = Bucket(10, 1.0)

    assert [bucket.take(5 * S) for _ in range(10)] == [0] * 10
    assert bucket.take(5 * S) == S // 10
    assert bucket.take(5 * S + S // 10) == 0
    assert bucket.take(5 * S + S // 10) == S // 10


def test_a_bucket_never_holds_more_than_its_most() -> None:
    bucket = Bucket(2, 1.0)

    assert [bucket.take(1000 * S) for _ in range(2)] == [0, 0]
    assert bucket.take(1000 * S) > 0
    assert [bucket.take(9000 * S) for _ in range(2)] == [0, 0]
    assert bucket.take(9000 * S) > 0


@given(st.lists(st.integers(0, S), max_size=300), st.integers(1, 50))
def test_no_more_pass_than_were_there_and_came_back(gaps: list[int], most: int) -> None:
    bucket = Bucket(most, 1.0)
    began = now = 77 * S
    passed = 0
    for gap in gaps:
        now += gap
        passed += bucket.take(now) == 0

    assert passed <= most + (now - began) * most / S + 1


def test_the_wait_that_is_told_is_enough() -> None:
    bucket = Bucket(3, 60.0)
    now = S
    while not (wait := bucket.take(now)):
        continue

    assert bucket.take(now + wait) == 0


def test_starts_over_the_quota_are_refused_with_the_time_to_wait() -> None:
    meter = Meter("uid:7", Quotas(spawns_per_minute=2))
    meter.spawn(S)
    meter.spawn(S)

    with pytest.raises(ResourceExhaustedError, match=r"uid:7 .* 2 agents a minute") as caught:
        meter.spawn(S)

    assert caught.value.details == {"retry_after_s": 30.0}
    assert caught.value.hint == "ask again in 30 s"
    meter.spawn(31 * S)


def test_streams_are_counted_by_what_is_open() -> None:
    meter = Meter("uid:7", Quotas(streams=1))
    meter.open_stream()
    with pytest.raises(ResourceExhaustedError, match="1 streams open"):
        meter.open_stream()
    meter.close_stream()
    meter.open_stream()

    after = Meter("uid:7", Quotas(streams=1))
    after.inherit(meter)
    with pytest.raises(ResourceExhaustedError):
        after.open_stream()
    meter.close_stream()
    after.open_stream()


def test_what_has_no_quota_is_not_limited() -> None:
    meter = Meter("uid:7", Quotas(agents=1))
    for _ in range(1000):
        meter.spawn(S)
        meter.open_stream()

    assert meter.requests is None


def test_a_hundred_handshakes_a_second_of_one_identity_are_too_many() -> None:
    now = S
    knocks = Knocks(clock_ns=lambda: now)
    refused = 0
    for _ in range(500):
        now += S // 100
        try:
            knocks.take("key:a")
        except ResourceExhaustedError:
            refused += 1
    knocks.take("key:b")

    assert 290 < refused < 310
