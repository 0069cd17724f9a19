"""Sizes, durations, times and K=V pairs as people type them."""

from __future__ import annotations

import math
import re
import time
from argparse import ArgumentTypeError
from collections.abc import Iterable

from descartesd.errors import InvalidArgumentError

# Text: each is compiled when it is first needed, which most commands never do.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_SIZE = rf"({_NUMBER})([kmgt]?)"
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PART = rf"({_NUMBER})(ms|s|m|h|d)"
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size(text: str) -> int:
    """Bytes of '512K' or '10M'; K, M, G and T are powers of 1024. Raises ArgumentTypeError."""
    match = re.fullmatch(_SIZE, text, re.IGNORECASE)
    if match is None:
        raise ArgumentTypeError(
            f"'{text}' is no size: expected bytes, or a number with K, M, G or T"
        )
    return int(float(match[1]) * _SIZE_UNITS[match[2].lower()])


def duration(text: str) -> float:
    """Seconds of '90', '1.5s' or '1m30s'. Raises ArgumentTypeError."""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if re.fullmatch(rf"(?:{_PART})+", text) is None:
        raise ArgumentTypeError(
            f"'{text}' is no duration: expected seconds, or numbers with ms, s, m, h or d"
        )
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in re.findall(_PART, text))


def positive_duration(text: str) -> float:
    """Like `duration`, and not 0. Raises ArgumentTypeError."""
    seconds = duration(text)
    if seconds <= 0:
        raise ArgumentTypeError(f"'{text}' is no time at all: expected more than 0")
    return seconds


def moment(text: str) -> float:
    """Epoch seconds of themselves, of '2026-01-31T12:00:00Z' or of the age '10m'.

    A time without a zone is local time. Raises ArgumentTypeError.
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if re.fullmatch(rf"(?:{_PART})+", text):
        return max(time.time() - duration(text), 0.0)
    from datetime import datetime  # noqa: PLC0415  # start-up time

    try:
        return max(datetime.fromisoformat(text).timestamp(), 0.0)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(
            f"'{text}' is no time: expected epoch seconds, ISO 8601, or an age such as 10m"
        ) from None


def dollars(text: str) -> float:
    """A sum of money above 0: '0.5', '20'."""
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < math.inf:
        raise ArgumentTypeError(f"'{text}' is no sum above 0: expected US dollars, as 0.5")
    return amount


def count(text: str) -> int:
    """A whole number from 0. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal()):
        raise ArgumentTypeError(f"'{text}' is no count: expected a whole number from 0")
    return int(text)


def percent(text: str) -> int:
    """A whole number of percent, as '50%' or '50'. Raises ArgumentTypeError."""
    number = text.removesuffix("%")
    if not (number.isascii() and number.isdecimal()) or int(number) == 0:
        raise ArgumentTypeError(f"'{text}' is no share: expected percent of one core, as 50%")
    return int(number)


def signal(text: str) -> str | int:
    """A signal as the wire takes it: a name, or a number from digits."""
    return int(text) if text.isascii() and text.isdecimal() else text


def is_signal(word: str | int) -> bool:
    """Whether a signal has this name or number."""
    from signal import Signals  # noqa: PLC0415  # builds enums that few commands need

    text = str(word).upper().removeprefix("SIG")
    return text.isdecimal() or f"SIG{text}" in Signals.__members__


def pairs(option: str, items: Iterable[str]) -> dict[str, str]:
    """K=V words as a map, the last of a key winning.

    Raises InvalidArgumentError, which tells the position and never the word: it may be a secret.
    """
    found = {}
    for number, item in enumerate(items, 1):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InvalidArgumentError(f"{option} number {number} is not of the form K=V")
        found[key] = value
    return found
