from __future__ import annotations

import time
from argparse import ArgumentTypeError

import pytest

from descartesd.ctl.values import (
    count,
    duration,
    is_signal,
    moment,
    pairs,
    percent,
    positive_duration,
    signal,
    size,
)
from descartesd.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("65536", 65536),
        ("512K", 512 * 1024),
        ("512k", 512 * 1024),
        ("10M", 10 * 1024**2),
        ("1.5G", 3 * 1024**3 // 2),
        ("1T", 1024**4),
    ],
)
def test_size_is_bytes_with_units_of_1024(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "10MB", "10 M", "-1", "1e6", "\uff10", "9" * 400])
def test_size_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no size"):
        size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("10", 10),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("15m", 900),
        ("1m30s", 90),
        ("1h", 3600),
        ("2d1h", 176400),
    ],
)
def test_duration_is_seconds(text: str, expected: float) -> None:
    assert duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "1x", "1m30", "-5", "inf", "nan", "1 s", "1e3"])
def test_duration_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000.5", 1700000000.5),
        ("1970-01-02T00:00:00Z", 86400),
        ("1970-01-02T02:00:00.250+02:00", 86400.25),
        ("1900-01-01T00:00:00Z", 0),
    ],
)
def test_moment_is_epoch_seconds(text: str, expected: float) -> None:
    assert moment(text) == expected


def test_moment_may_be_an_age_or_local_time() -> None:
    assert moment("10m") == pytest.approx(time.time() - 600, abs=5)
    assert moment("99999d") == 0
    local = time.mktime((2026, 1, 31, 12, 30, 0, 0, 0, -1))
    assert moment("2026-01-31 12:30") == local


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "10x", "nan", "2026-13-01"])
def test_moment_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no time"):
        moment(text)


def test_positive_duration_refuses_zero() -> None:
    assert positive_duration("1ms") == pytest.approx(0.001)
    with pytest.raises(ArgumentTypeError, match="expected more than 0"):
        positive_duration("0s")


@pytest.mark.parametrize("text", ["-1", "1.0", "x", "", "٣"])
def test_count_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no count"):
        count(text)


def test_signal_made_of_digits_is_a_number() -> None:
    assert signal("9") == 9
    assert signal("SIGHUP") == "SIGHUP"
    assert signal("RTMIN+1") == "RTMIN+1"


def test_pairs_split_at_the_first_equals_sign_and_the_last_one_wins() -> None:
    assert pairs("--env", ["A=1", "B=x=y", "C=", "A=2"]) == {"A": "2", "B": "x=y", "C": ""}


@pytest.mark.parametrize("word", ["hunter2", "=hunter2"])
def test_malformed_pair_is_named_by_its_place_and_never_shown(word: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        pairs("--env", ["A=1", word])

    assert caught.value.message == "--env number 2 is not of the form K=V"


@pytest.mark.parametrize(("text", "wanted"), [("50%", 50), ("150", 150), ("1%", 1)])
def test_percent_is_a_share_of_one_core(text: str, wanted: int) -> None:
    assert percent(text) == wanted


@pytest.mark.parametrize("text", ["0", "0%", "-5", "1.5%", "%", "50%%", ""])
def test_percent_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no share"):
        percent(text)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("HUP", True), ("sigterm", True), (9, True), ("w3", False), ("", False), ("SIG", False)],
)
def test_signals_are_told_from_other_words(word: str | int, expected: bool) -> None:
    assert is_signal(word) is expected
