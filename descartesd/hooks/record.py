"""What is known of a plugin: where it comes from, how its hooks fare, and whether it is benched."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, NamedTuple

from msgspec import Struct

from descartesd.observe.metrics import MethodMetrics
from descartesd.wire.plugin import PluginState


class Options(NamedTuple):
    """Seconds an implementation may take, and when a plugin is benched, and for how long.

    It is once `bench_failures` of its last `bench_calls` calls have failed.
    """

    hook_timeout_s: float = 2.0
    bench_failures: int = 5
    bench_calls: int = 20
    bench_s: float = 60.0


class Origin(NamedTuple):
    """A plugin's distribution and version, and its settings where it has some."""

    distribution: str = "descartesd"
    version: str = ""
    settings: Struct | None = None


class PluginRecord:
    """One plugin. Its numbers may be added to from any thread."""

    def __init__(
        self,
        name: str,
        plugin: object,
        options: Options,
        *,
        origin: Origin = Origin(),  # noqa: B008  # it is immutable
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.plugin = plugin
        self.origin = origin
        self.hooks: tuple[str, ...] = ()
        # What it has registered, by the word for it.
        self.registered: dict[str, list[str]] = {}
        # The last thing that went wrong.
        self.last_error: str | None = None
        # Facts that were not told, since too many waited.
        self.dropped = 0
        # Why it does not work any more, although it is not benched.
        self.problem: str | None = None
        # Told when it is benched and when it is let in again; from any thread.
        self.on_bench: Callable[[PluginRecord, bool], None] = _nobody_asks
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics = MethodMetrics()
        self._errors = 0
        self._outcomes: deque[bool] = deque(maxlen=options.bench_calls)
        self._benched_until: float | None = None
        self._log = logging.getLogger(f"descartesd.plugins.{name}")

    @property
    def state(self) -> PluginState:
        """Whether its hooks are called."""
        if self._benched_until is not None:
            return "benched"
        return "loaded" if self.problem is None else "failed"

    @property
    def calls(self) -> int:
        """How often it has been called."""
        return self._metrics.requests

    @property
    def errors(self) -> int:
        """How often that went wrong."""
        return self._errors

    @property
    def p99_s(self) -> float:
        """Seconds that 99 of 100 calls took at most."""
        return self._metrics.stats().latency.p99_s

    def may_be_called(self) -> bool:
        """Whether it is not benched, or its time on the bench is over: then one call is a trial."""
        until = self._benched_until
        if until is None:
            return True
        with self._lock:
            if self._benched_until is None:
                return True
            if self._clock() < self._benched_until:
                return False
            self._benched_until = self._clock() + self._options.bench_s
            return True

    def went_well(self, began_ns: int) -> None:
        """Note a call that began at this `perf_counter_ns`."""
        with self._lock:
            self._metrics.requests += 1
            self._metrics.answered(began_ns)
            self._outcomes.append(True)
            was_benched, self._benched_until = self._benched_until is not None, None
            if was_benched:
                self._outcomes.clear()
        if was_benched:
            self._log.warning("plugin.restored", extra={"plugin": self.name})
            self.on_bench(self, False)

    def went_wrong(
        self, hook: str, began_ns: int, fault: str, exc: BaseException | None = None
    ) -> None:
        """Note and log a call that raised, took too long or answered what it may not."""
        self._log.warning(
            "plugin.failed",
            extra={"plugin": self.name, "hook": hook, "fault": fault},
            exc_info=exc,
        )
        with self._lock:
            self._metrics.requests += 1
            self._errors += 1
            self._metrics.answered(began_ns)
            self.last_error = f"{hook}: {fault}"
            self._outcomes.append(False)
            benched = self._benched_until is None and self._outcomes.count(False) >= min(
                self._options.bench_failures, self._options.bench_calls
            )
            if benched:
                self._benched_until = self._clock() + self._options.bench_s
        if benched:
            self._log.error("plugin.benched", extra={"plugin": self.name, "hook": hook})
            self.on_bench(self, True)

    def fail(self, problem: str) -> None:
        """Note that a part of it has ended for good."""
        self._log.error("plugin.part_ended", extra={"plugin": self.name, "problem": problem})
        self.problem = self.last_error = problem


def now_ns() -> int:
    """When a call begins."""
    return perf_counter_ns()


def _nobody_asks(_record: PluginRecord, _benched: bool) -> None:
    return None


def named(exc: BaseException) -> str:
    """An exception as a fault names it."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def kind_of(value: Any) -> str:
    """What a plugin has answered, as a fault names it."""
    return type(value).__name__
