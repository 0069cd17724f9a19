"""What an agent that does nothing costs: memory of both processes, and their idle CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event

from tests.bench import crowd
from tests.bench.figures import Figure, at_most
from tests.bench.machine import cpu_seconds, memory_kib
from tests.bench.server import Bench, Measured, measured

_AGENT_KIB = {"keeper": at_most(8.0), "daemon": at_most(12.0)}
_EMPTY_KEEPER_MIB = at_most(15.0)
_CPU_PERCENT = at_most(1.0)


def run(bench: Bench) -> Iterator[Figure]:
    """Memory with 0 and with 1000 agents, then the CPU of 10 seconds in which nothing happens."""
    with measured(bench) as ours:
        pids = {"keeper": ours.keeper, "daemon": ours.daemon}
        before = {name: memory_kib(pid) for name, pid in pids.items()}
        yield _empty(before["keeper"])
        crowd.fill(ours)
        after = {name: memory_kib(pid) for name, pid in pids.items()}
        for name, budget in _AGENT_KIB.items():
            empty, full = before[name]["RssAnon"], after[name]["RssAnon"]
            yield Figure(
                row=f"idle {name} memory",
                unit="KiB/agent",
                ours=(full - empty) / crowd.SIZE,
                budget=budget,
                notes=[
                    f"RssAnon {empty} KiB with none, {full} KiB with {crowd.SIZE} agents",
                    f"Pss {before[name]['Pss']} KiB with none, {after[name]['Pss']} KiB with them",
                ],
            )
        yield _cpu(ours, 3.0 if bench.is_quick else 10.0)


def _empty(memory: dict[str, int]) -> Figure:
    return Figure(
        row="idle keeper, empty",
        unit="MiB",
        ours=memory["VmRSS"] / 1024,
        budget=_EMPTY_KEEPER_MIB,
        notes=[f"RSS; Pss {memory['Pss']} KiB, of it anonymous {memory['RssAnon']} KiB"],
    )


def _cpu(ours: Measured, seconds: float) -> Figure:
    began = time.perf_counter()
    daemon, keeper = cpu_seconds(ours.daemon), cpu_seconds(ours.keeper)
    Event().wait(seconds)
    daemon, keeper = cpu_seconds(ours.daemon) - daemon, cpu_seconds(ours.keeper) - keeper
    passed = time.perf_counter() - began
    return Figure(
        row=f"idle CPU, {crowd.SIZE} agents",
        unit="% of a core",
        ours=(daemon + keeper) / passed * 100,
        budget=_CPU_PERCENT,
        notes=[
            f"in {passed:.1f} s: daemon {daemon * 1e3:.1f} ms, keeper {keeper * 1e3:.1f} ms",
            "one client is connected and answers heartbeats",
        ],
    )
