"""How long a status request takes while agents flood their output and others are started."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.bench.figures import Figure, at_most
from tests.bench.gate import Gate
from tests.bench.machine import require_space
from tests.bench.server import Bench, Measured, measured
from tests.bench.wire import Wire, read_keys

_FLOODING = 100
_SPAWNS = 200
_DEPTH = 16
_IDLE_REQUESTS = 2000
# What is kept of each flood, and what it is at most.
_KEPT = 1 << 20
_MOST = 40 << 20
_BLOCK = 4096
_WRITE_WHEN_OPEN = ': < "$1"; exec dd if=/dev/zero bs="$2" count="$3" status=none'
_TIMES_IDLE = 3
_ALWAYS_ALLOWED_MS = 10.0


def run(bench: Bench) -> Iterator[Figure]:
    """p99 of `agent.get` by one client: at rest, then from the first of the spawns to the last."""
    require_space(str(bench.scratch), _FLOODING * _MOST)
    with measured(bench) as ours:
        (agent_id,) = ours.wire.spawn([{"command": ["sleep", "1d"]}])
        idle = _Latencies([_ask(ours, agent_id) for _ in range(_IDLE_REQUESTS)])
        with Gate(ours.server.root) as gate, ThreadPoolExecutor(1) as other:
            flooding = ours.wire.spawn([_flood(gate)] * _FLOODING)
            gate.open()
            # From here on the flood is at its height, and old output is being dropped.
            while _written(ours) < _FLOODING * _KEPT:
                time.sleep(0.01)
            before, began = _written(ours), time.perf_counter()
            spawning = other.submit(_spawn, ours)
            found = []
            while not spawning.done():
                found.append(_ask(ours, agent_id))
            spawning.result()
            seconds = time.perf_counter() - began
            written = _written(ours) - before
            left = sum(_state(ours, each) == "running" for each in flooding)
    busy = _Latencies(found)
    yield Figure(
        row=f"agent.get p99: {_FLOODING} agents flood, {_SPAWNS} start",
        unit="ms",
        ours=busy.ms(0.99),
        reference=idle.ms(0.99),
        budget=at_most(max(_TIMES_IDLE * idle.ms(0.99), _ALWAYS_ALLOWED_MS)),
        notes=[
            f"{len(found)} requests: p50 {busy.ms(0.5):.2f} ms, slowest {busy.ms(1):.1f} ms",
            f"at rest, the reference: p50 {idle.ms(0.5):.2f} ms",
            f"{_SPAWNS / seconds:.0f} spawn/s, {_DEPTH} outstanding, for {seconds:.2f} s",
            f"{written / 1e6 / seconds:.0f} MB/s of output, {left} agents still wrote at the end",
        ],
    )


class _Latencies:
    def __init__(self, seconds: list[float]) -> None:
        self._seconds = sorted(seconds)

    def ms(self, share: float) -> float:
        """What this share of the requests did not exceed."""
        return self._seconds[min(int(len(self._seconds) * share), len(self._seconds) - 1)] * 1e3


def _ask(ours: Measured, agent_id: str) -> float:
    began = time.perf_counter()
    ours.wire.call("agent.get", {"id": agent_id})
    return time.perf_counter() - began


def _state(ours: Measured, agent_id: str) -> str:
    return str(ours.wire.call("agent.get", {"id": agent_id})["state"])


def _written(ours: Measured) -> int:
    """Bytes of output so far: a file is as long as its stream, whatever of it has been dropped."""
    return sum(entry.stat().st_size for entry in os.scandir(ours.output_dir))


def _flood(gate: Gate) -> dict[str, Any]:
    size = (str(_BLOCK), str(_MOST // _BLOCK))
    return {
        "command": ["/bin/sh", "-c", _WRITE_WHEN_OPEN, "writer", gate.path, *size],
        "limits": {"output_bytes": _KEPT},
    }


def _spawn(ours: Measured) -> None:
    with Wire(read_keys(ours.server.admin)) as wire:
        wire.spawn([{"command": ["/bin/true"]}] * _SPAWNS, depth=_DEPTH)
