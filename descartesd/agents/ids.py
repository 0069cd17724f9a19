"""Ids that sort by time, and names for agents that were given none."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from functools import lru_cache

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"  # base32hex, RFC 4648 §7: sorts like its numbers
_DIGITS = frozenset(_ALPHABET)
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_LENGTH = 20
_RANDOM_BITS = 52
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


class IdSource:
    """Makes ids of 48 bits of milliseconds and 52 random bits, strictly ascending."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> str:
        """Return a new id of 20 characters."""
        value = int(self._clock() * 1000) << _RANDOM_BITS | _random(_RANDOM_BITS)
        self._last = max(value, self._last + 1)
        return encode(self._last, _LENGTH)


def is_id(text: str) -> bool:
    """Whether this is an id as it is made here."""
    return len(text) == _LENGTH and set(text) <= _DIGITS


def _random(bits: int) -> int:
    return random.getrandbits(bits)


def encode(value: int, length: int) -> str:
    """Write a number in base32hex, padded with zeros."""
    places = range(5 * length - 10, -1, -10)
    pairs = "".join([_PAIRS[value >> place & 1023] for place in places])
    return pairs if length % 2 == 0 else pairs + _ALPHABET[value & 31]


def name_for(program: str) -> str:
    """Make a name that tells the program: `claude-k3f9a`."""
    return f"{_stem(program)}-{encode(_random(25), 5)}"


@lru_cache(maxsize=256)
def _stem(program: str) -> str:
    stem = program.rpartition("/")[2].lower()
    stem = _NOT_IN_NAMES.sub("-", stem).strip("-._")[:40]
    if not stem or not stem[0].isalpha():
        stem = f"agent-{stem}" if stem else "agent"
    return stem
