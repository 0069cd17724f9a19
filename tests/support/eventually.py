"""Wait for a condition with a deadline instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], *, timeout: float = 5.0, step: float = 0.01) -> T:
    """Return the first truthy value of `predicate`; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = Event()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: last value {value!r}")
        pause.wait(step)
