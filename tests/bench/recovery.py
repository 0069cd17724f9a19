"""From kill -9 of the daemon to the first true answer of its successor, with 1000 agents."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from tests.bench import crowd
from tests.bench.figures import Figure, at_most
from tests.bench.server import Bench, Measured, measured
from tests.bench.wire import Wire, read_keys

_BUDGET = at_most(1.0)


def run(bench: Bench) -> Iterator[Figure]:
    """From exec to an `agent.list` of all of them, each running under the pid it had."""
    with measured(bench) as ours:
        crowd.fill(ours)
        before = _pids(ours.wire.call("agent.list", {"limit": crowd.SIZE}))
        seconds = [_crash(ours, before) for _ in range(2 if bench.is_quick else 5)]
    yield Figure(
        row=f"recovery, {crowd.SIZE} agents",
        unit="s",
        ours=statistics.median(seconds),
        budget=_BUDGET,
        notes=[f"rounds: {', '.join(f'{each:.2f}' for each in sorted(seconds))} s"],
    )


def _crash(ours: Measured, before: dict[str, int]) -> float:
    ours.server.kill()
    began = time.perf_counter()
    ours.server.start(wait=False)
    with Wire(read_keys(ours.server.admin)) as wire:
        page = wire.call("agent.list", {"limit": crowd.SIZE})
        seconds = time.perf_counter() - began
    if page["total"] != crowd.SIZE or _pids(page) != before:
        raise RuntimeError(f"of {crowd.SIZE} agents {page['total']} are known after the crash")
    return seconds


def _pids(page: dict[str, Any]) -> dict[str, int]:
    return {agent["id"]: agent["pid"] for agent in page["agents"] if agent["state"] == "running"}
