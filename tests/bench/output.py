"""Output: agents whose output the keeper stores, against the same children appending to files.

The children wait at a gate before they write, so that their start is not measured. A round ends
when every exit has been answered and every byte is in its file; that the server then tells the end
of each stream where it should is checked outside the clock.
CPU is measured in passes of its own, in which nobody exits before every byte is in its file, and is
their mean.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import NamedTuple

from descartesd.keeper.protocol import data_path
from tests.bench.figures import Budget, Figure, Pair, at_least, at_most, compare
from tests.bench.gate import Gate
from tests.bench.machine import cpu_seconds, require_space
from tests.bench.server import Bench, Measured, measured

_BLOCK = 4096
_BUDGETS = {1: at_least(0.70), 100: at_least(0.45)}
# To read every byte once would cost the daemon over 0.1 s a GB.
_DAEMON_BUDGET = at_most(0.02)
_WRITE_WHEN_OPEN = ': < "$1"; exec dd if=/dev/zero bs="$2" count="$3" status=none'
_WRITE_FILE_WHEN_OPEN = f'{_WRITE_WHEN_OPEN} >> "$4"'
_WRITE_AND_HOLD = ': < "$1"; dd if=/dev/zero bs="$2" count="$3" status=none; : < "$4"'
_PATIENCE_S = 60.0


class _CPU(NamedTuple):
    """CPU seconds a GB."""

    daemon: float
    keeper: float


def run(bench: Bench) -> Iterator[Figure]:
    """The same number of bytes in all, by 1 agent and by 100."""
    rounds, total = (3, 64 << 20) if bench.is_quick else (5, 256 << 20)
    with measured(bench) as ours:
        require_space(str(bench.scratch), 2 * total)
        for agents, budget in _BUDGETS.items():
            yield from _figures(_Case(bench, ours, agents, total), rounds, budget)


def _figures(case: _Case, rounds: int, budget: Budget) -> Iterator[Figure]:
    row = f"output {case.agents} agent{'s' if case.agents > 1 else ''}"
    # What the server does each second falls into one pass and not into the next.
    passes = [case.cpu() for _ in range(2 * rounds)]
    cpu = _CPU(*(fmean(each) for each in zip(*passes, strict=True)))
    notes = [
        f"{case.agents} x dd bs=4k count={case.blocks}",
        f"keeper CPU {cpu.keeper:.2f} s/GB",
    ]
    pairs = [case.round(ours_first=bool(number % 2)) for number in range(rounds)]
    yield compare(row, "MB/s", pairs, budget, notes=notes)
    yield Figure(f"{row}: daemon CPU", "s/GB", cpu.daemon, budget=_DAEMON_BUDGET)


class _Case:
    """So many agents, which write so many bytes together."""

    def __init__(self, bench: Bench, ours: Measured, agents: int, total: int) -> None:
        self._bench = bench
        self._ours = ours
        self.agents = agents
        self.blocks = total // agents // _BLOCK
        self._each = self.blocks * _BLOCK

    def round(self, *, ours_first: bool) -> Pair:
        """MB/s of both sides."""
        sides = (self._by_server, self._bare) if ours_first else (self._bare, self._by_server)
        seconds = {side: side() for side in sides}
        size = self.agents * self._each / 1e6
        return Pair(size / seconds[self._bare], size / seconds[self._by_server])

    def cpu(self) -> _CPU:
        """What daemon and keeper need for the bytes alone."""
        ours = self._ours
        with Gate(ours.server.root) as gate, Gate(ours.server.root) as hold:
            ids = self._spawn(_WRITE_AND_HOLD, gate, hold.path)
            daemon, keeper = cpu_seconds(ours.daemon), cpu_seconds(ours.keeper)
            gate.open()
            _until(partial(self._is_written, ids), step_s=0.01)
            daemon, keeper = cpu_seconds(ours.daemon) - daemon, cpu_seconds(ours.keeper) - keeper
            hold.open()
            self._await_exits(ids)
        self._check_ends(ids)
        _empty(ours.output_dir)
        gigabytes = self.agents * self._each / 1e9
        return _CPU(daemon / gigabytes, keeper / gigabytes)

    def _by_server(self) -> float:
        with Gate(self._ours.server.root) as gate:
            ids = self._spawn(_WRITE_WHEN_OPEN, gate)
            began = time.perf_counter()
            gate.open()
            self._await_exits(ids)
            # Without a pause, which would be part of what is measured.
            _until(partial(self._is_written, ids))
            seconds = time.perf_counter() - began
        self._check_ends(ids)
        _empty(self._ours.output_dir)
        return seconds

    def _bare(self) -> float:
        directory = Path(tempfile.mkdtemp(prefix="bare-", dir=self._bench.scratch))
        with Gate(self._ours.server.root) as gate:
            children = [
                _start(self._command(_WRITE_FILE_WHEN_OPEN, gate, str(directory / str(number))))
                for number in range(self.agents)
            ]
            began = time.perf_counter()
            gate.open()
            for child in children:
                if child.wait() != 0:
                    raise RuntimeError(f"a writer ended with {child.returncode}")
            seconds = time.perf_counter() - began
        _empty(directory)
        return seconds

    def _command(self, script: str, gate: Gate, *further: str) -> list[str]:
        size = (str(_BLOCK), str(self.blocks))
        return ["/bin/sh", "-c", script, "writer", gate.path, *size, *further]

    def _spawn(self, script: str, gate: Gate, *further: str) -> list[str]:
        command = self._command(script, gate, *further)
        ids = self._ours.wire.spawn({"command": command} for _ in range(self.agents))
        for agent_id in ids:
            self._ours.wire.send("agent.wait", {"id": agent_id})
        # Answered at once, and after the server has taken every request before it.
        self._ours.wire.call("server.hello")
        return ids

    def _await_exits(self, ids: list[str]) -> None:
        for _ in ids:
            info = self._ours.wire.receive()
            if info["state"] != "completed":
                raise RuntimeError(f"a writer is {info['state']}: {info['outcome']}")

    def _is_written(self, ids: list[str]) -> bool:
        paths = (data_path(str(self._ours.output_dir), agent_id, "stdout") for agent_id in ids)
        return all(_size(path) == self._each for path in paths)

    def _check_ends(self, ids: list[str]) -> None:
        for agent_id in ids:
            _until(partial(self._has_ended, agent_id))

    def _has_ended(self, agent_id: str) -> bool:
        request = {"id": agent_id, "stream": "stdout", "offset": self._each, "limit": 1}
        chunk = self._ours.wire.call("agent.output", request)
        if chunk["total"] != self._each:
            raise RuntimeError(f"the server tells {chunk['total']} bytes of {self._each}")
        return bool(chunk["eof"])


def _empty(directory: Path) -> None:
    """Give the memory of written files back; their inodes stay, see `Bench`."""
    for entry in os.scandir(directory):
        os.truncate(entry.path, 0)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        # Made with the first byte.
        return 0


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)


def _until(condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    pause = Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_PATIENCE_S:g} s")
        if step_s:
            pause.wait(step_s)
