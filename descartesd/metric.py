"""Metrics as plugins add and export them, named after the conventions of Prometheus."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from descartesd.wire.agent import NAME_PATTERN

MetricKind = Literal["counter", "gauge", "histogram"]

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value of a counter or a gauge."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One histogram: `counts` has, for each of `bounds`, how many were at most that.

    Each is counted once, under the first bound it is within; one entry more than there are bounds
    is for what is above them all.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of a plugin's own, with its unit in its name (`_seconds`, `_bytes`, `_total`).

    `read` is called whenever metrics are collected, in the event loop: it tells values that are
    known already, a number or several samples, and never waits. The name is that of a counter
    where it ends in `_total`.

    Raises ValueError where one of them cannot be.
    """

    name: str
    kind: MetricKind
    help: str
    read: Callable[[], float | Iterable[Sample | Distribution]]

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(
                f"metric '{self.name}': expected a name of lower-case words joined by '_'"
            )
        if self.kind not in get_args(MetricKind):
            raise ValueError(
                f"metric '{self.name}': kind: it is '{self.kind}', expected one of"
                f" {', '.join(get_args(MetricKind))}"
            )
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"metric '{self.name}': a counter, and nothing else, ends in _total")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFamily:
    """One metric as it was collected: name, kind, meaning, and its values of then."""

    name: str
    kind: MetricKind
    help: str
    samples: tuple[Sample | Distribution, ...]


class MetricSource(Protocol):
    """Where an exporter gets the metrics from."""

    def collect(self) -> Sequence[MetricFamily]:
        """Read every metric now; only in the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """Carries metrics out of the server.

    `run(source)` is a coroutine function that runs in the event loop from the start of the server
    to its end, when it is cancelled. One that raises or returns before is run again: after a
    second at first, later after up to a minute.

    Raises ValueError where its name cannot be.
    """

    name: str
    run: Callable[[MetricSource], Awaitable[None]]

    def __post_init__(self) -> None:
        if re.fullmatch(NAME_PATTERN, self.name) is None:
            raise ValueError(f"exporter '{self.name}': expected a lower-case name")
