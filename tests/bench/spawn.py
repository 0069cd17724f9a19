"""Starting agents: through the wire, against the same program started bare."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.bench.figures import Figure, Pair, at_least, compare
from tests.bench.machine import cpu_seconds
from tests.bench.server import Bench, Measured, measured
from tests.bench.wire import ALIVE

_DEPTH = 16
_PROGRAM = "/bin/true"
_PATHS = {
    "plain": ({}, at_least(0.50)),
    "limits": ({"limits": {"open_files": 1024}}, at_least(0.25)),
}


class _Round(NamedTuple):
    pair: Pair
    daemon_ms: float
    keeper_ms: float


def run(bench: Bench) -> Iterator[Figure]:
    """Both launch paths, with and without limits to apply."""
    rounds, count = (3, 100) if bench.is_quick else (5, 400)
    for name, (extra, budget) in _PATHS.items():
        spec = {"command": [_PROGRAM], **extra}
        with measured(bench) as ours:
            _spawn(ours, spec, _DEPTH)
            found = [_round(ours, spec, count, ours_first=bool(n % 2)) for n in range(rounds)]
        daemon_ms = sum(each.daemon_ms for each in found) / rounds
        keeper_ms = sum(each.keeper_ms for each in found) / rounds
        notes = [
            f"{count} a round, {_DEPTH} outstanding",
            f"CPU each, exit included: daemon {daemon_ms:.2f} ms, keeper {keeper_ms:.2f} ms",
        ]
        yield compare(
            f"spawn {name}", "spawn/s", (each.pair for each in found), budget, notes=notes
        )


def _round(ours: Measured, spec: dict[str, Any], count: int, *, ours_first: bool) -> _Round:
    bare = None if ours_first else _bare(count)
    daemon, keeper = cpu_seconds(ours.daemon), cpu_seconds(ours.keeper)
    seconds = _spawn(ours, spec, count)
    daemon, keeper = cpu_seconds(ours.daemon) - daemon, cpu_seconds(ours.keeper) - keeper
    pair = Pair(count / (bare or _bare(count)), count / seconds)
    return _Round(pair, daemon / count * 1e3, keeper / count * 1e3)


def _spawn(ours: Measured, spec: dict[str, Any], count: int) -> float:
    """Seconds until `count` agents have ended."""
    began = time.perf_counter()
    ours.wire.spawn([spec] * count, depth=_DEPTH)
    while ours.wire.count(*ALIVE):
        continue
    return time.perf_counter() - began


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
