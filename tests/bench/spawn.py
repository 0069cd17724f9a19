"""Starting agents: through the wire, against the same program started bare."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.bench.figures import Budget, Figure, Pair, at_least, compare
from tests.bench.machine import cpu_seconds
from tests.bench.server import Bench, Measured, measured
from tests.bench.wire import ALIVE, Wire

_DEPTH = 64
_LOOK_EVERY_S = 0.002
_PROGRAM = "/bin/true"
_PLAIN: dict[str, Any] = {"command": [_PROGRAM]}
_LIMITED = {**_PLAIN, "limits": {"open_files": 1024}}


class _Way(NamedTuple):
    """How agents are started; `start` gets the specs of a round."""

    row: str
    start: Callable[[Wire, list[dict[str, Any]]], None]
    spec: dict[str, Any]
    budget: Budget
    note: str


class _Round(NamedTuple):
    pair: Pair
    daemon_ms: float
    keeper_ms: float


def run(bench: Bench) -> Iterator[Figure]:
    """One request an agent, without and with a limit to apply, and one request for all."""
    rounds, count = (3, 100) if bench.is_quick else (5, 400)
    for way in _WAYS:
        with measured(bench) as ours:
            _spawn(ours, way, _DEPTH)
            found = [_round(ours, way, count, ours_first=bool(n % 2)) for n in range(rounds)]
        daemon_ms = sum(each.daemon_ms for each in found) / rounds
        keeper_ms = sum(each.keeper_ms for each in found) / rounds
        notes = [
            f"{count} a round, {way.note}",
            f"CPU each, exit included: daemon {daemon_ms:.2f} ms, keeper {keeper_ms:.2f} ms",
        ]
        yield compare(way.row, "spawn/s", (each.pair for each in found), way.budget, notes=notes)


def _round(ours: Measured, way: _Way, count: int, *, ours_first: bool) -> _Round:
    bare = None if ours_first else _bare(count)
    daemon, keeper = cpu_seconds(ours.daemon), cpu_seconds(ours.keeper)
    seconds = _spawn(ours, way, count)
    daemon, keeper = cpu_seconds(ours.daemon) - daemon, cpu_seconds(ours.keeper) - keeper
    pair = Pair(count / (bare or _bare(count)), count / seconds)
    return _Round(pair, daemon / count * 1e3, keeper / count * 1e3)


def _spawn(ours: Measured, way: _Way, count: int) -> float:
    """Seconds until `count` agents have ended."""
    began = time.perf_counter()
    way.start(ours.wire, [way.spec] * count)
    while ours.wire.count(*ALIVE):
        # Asked without a pause, the server would be kept from what it is asked about.
        time.sleep(_LOOK_EVERY_S)
    return time.perf_counter() - began


def _one_by_one(wire: Wire, specs: list[dict[str, Any]]) -> None:
    wire.spawn(specs, depth=_DEPTH)


def _as_a_batch(wire: Wire, specs: list[dict[str, Any]]) -> None:
    done = wire.call("batch.spawn", {"specs": specs}, idem=True)
    if done["failed"]:
        raise RuntimeError(f"{done['failed']} of {len(specs)} agents did not start")


_WAYS = (
    _Way("agent.spawn", _one_by_one, _PLAIN, at_least(0.50), f"{_DEPTH} outstanding"),
    _Way("agent.spawn with limits", _one_by_one, _LIMITED, at_least(0.25), f"{_DEPTH} outstanding"),
    _Way("batch.spawn", _as_a_batch, _PLAIN, at_least(0.60), "in one request"),
)


def _bare(count: int) -> float:
    """Seconds for `count` children, as many at once as requests are outstanding."""
    running: deque[subprocess.Popen[bytes]] = deque()
    began = time.perf_counter()
    for _ in range(count):
        if len(running) == _DEPTH:
            running.popleft().wait()
        running.append(
            subprocess.Popen(
                [_PROGRAM],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
    while running:
        running.popleft().wait()
    return time.perf_counter() - began
