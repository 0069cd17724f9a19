"""Output: agents whose output the keeper stores, against the same children appending to files.

The children wait at a gate (a FIFO nobody has opened for writing), so that their start is not
measured. A round ends when every exit has been answered and every byte is in its file; that the
server then tells the end of each stream where it should is checked outside the clock.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from descartesd.keeper.protocol import data_path
from tests.bench.figures import Budget, Figure, Pair, at_least, at_most, compare
from tests.bench.machine import cpu_seconds, require_space
from tests.bench.server import Measured, measured

_BLOCK = 4096
_GB = 1e9
_BUDGETS = {1: at_least(0.70), 100: at_least(0.45)}
# To touch every byte once would cost the daemon about 0.1 s a GB.
_DAEMON_BUDGET = at_most(0.02)
_GATE = ': < "$1"; shift; exec "$@"'
_PATIENCE_S = 60.0


class _Pass(NamedTuple):
    seconds: float
    daemon: float
    keeper: float


def run(*, quick: bool) -> Iterator[Figure]:
    """The same number of bytes in all, by 1 agent and by 100."""
    rounds, total = (3, 64 << 20) if quick else (5, 256 << 20)
    with measured() as ours:
        require_space(str(ours.server.root), 3 * total)
        for agents, budget in _BUDGETS.items():
            yield from _row(_Case(ours, agents, total // agents // _BLOCK), rounds, budget)


def _row(case: _Case, rounds: int, budget: Budget) -> Iterator[Figure]:
    row = f"output {case.agents} agent{'s' if case.agents > 1 else ''}"
    case.ours_pass(0)
    exits = case.ours_pass(0)
    pairs, passes = [], []
    for number in range(rounds):
        seconds = case.bare_pass() if number % 2 == 0 else 0.0
        passes.append(case.ours_pass(case.blocks))
        seconds = seconds or case.bare_pass()
        pairs.append(Pair(case.size / seconds / 1e6, case.size / passes[-1].seconds / 1e6))
    keeper = _per_gb(sum(each.keeper for each in passes) / rounds, case)
    notes = [
        f"{case.agents} x dd bs=4k count={case.blocks}",
        f"keeper CPU {keeper:.2f} s/GB, with the exits, which alone cost {exits.keeper * 1e3:.0f} ms",
    ]
    yield compare(row, "MB/s", pairs, budget, notes=notes)
    daemon = sum(each.daemon for each in passes) / rounds
    yield Figure(
        row=f"{row}: daemon CPU",
        unit="s/GB",
        ours=max(0.0, _per_gb(daemon - exits.daemon, case)),
        budget=_DAEMON_BUDGET,
        notes=[
            f"{daemon * 1e3:.1f} ms a round",
            f"less {exits.daemon * 1e3:.1f} ms for the same agents exiting without output",
        ],
    )


def _per_gb(seconds: float, case: _Case) -> float:
    return seconds / (case.size / _GB)


class _Case:
    """So many agents, each writing so many blocks."""

    def __init__(self, ours: Measured, agents: int, blocks: int) -> None:
        self._ours = ours
        self.agents = agents
        self.blocks = blocks
        self.size = agents * blocks * _BLOCK

    def ours_pass(self, blocks: int) -> _Pass:
        """Agents of the server; nothing of them is left afterwards."""
        ours, wire = self._ours, self._ours.wire
        with _gate(ours.server.root) as (gate, open_gate):
            specs = [{"command": _writer(gate, blocks)} for _ in range(self.agents)]
            ids = wire.spawn(specs)
            for agent_id in ids:
                wire.send("agent.wait", {"id": agent_id})
            directory = str(ours.server.directory / "state" / "output")
            paths = [data_path(directory, agent_id, "stdout") for agent_id in ids]
            daemon, keeper = cpu_seconds(ours.daemon), cpu_seconds(ours.keeper)
            began = time.perf_counter()
            open_gate()
            for _ in ids:
                _require_success(wire.receive())
            for path in paths:
                _until(partial(_has_size, path, blocks * _BLOCK))
            seconds = time.perf_counter() - began
            daemon, keeper = cpu_seconds(ours.daemon) - daemon, cpu_seconds(ours.keeper) - keeper
        for agent_id in ids:
            _until(partial(self._has_ended, agent_id, blocks * _BLOCK))
        wire.remove(ids)
        return _Pass(seconds, daemon, keeper)

    def _has_ended(self, agent_id: str, size: int) -> bool:
        request = {"id": agent_id, "stream": "stdout", "offset": size, "limit": 1}
        chunk = self._ours.wire.call("agent.output", request)
        if chunk["total"] != size:
            raise RuntimeError(f"the server tells {chunk['total']} bytes of {size}")
        return bool(chunk["eof"])

    def bare_pass(self) -> float:
        """The same children of this process, each appending to a file of its own; seconds."""
        root = self._ours.server.root
        with _gate(root) as (gate, open_gate), ExitStack() as files:
            children = []
            for number in range(self.agents):
                path = root / f"bare-{number}"
                files.callback(path.unlink)
                with path.open("ab") as file:
                    children.append(
                        subprocess.Popen(
                            _writer(gate, self.blocks),
                            stdin=subprocess.DEVNULL,
                            stdout=file,
                            stderr=subprocess.DEVNULL,
                            start_new_session=True,
                        )
                    )
            began = time.perf_counter()
            open_gate()
            for child in children:
                if child.wait() != 0:
                    raise RuntimeError(f"a writer ended with {child.returncode}")
            return time.perf_counter() - began


def _writer(gate: Path, blocks: int) -> list[str]:
    write = ["dd", "if=/dev/zero", f"bs={_BLOCK}", f"count={blocks}", "status=none"]
    return ["/bin/sh", "-c", _GATE, "gate", str(gate), *write]


@contextmanager
def _gate(directory: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A FIFO that holds whoever opens it for reading, and the function that lets them on."""
    path = directory / "gate"
    os.mkfifo(path)
    with ExitStack() as stack:
        stack.callback(path.unlink)

        def open_gate() -> None:
            # Open for both: late comers pass, and no reader needs to be there yet.
            stack.callback(os.close, os.open(path, os.O_RDWR))

        yield path, open_gate


def _require_success(info: dict[str, Any]) -> None:
    if info["state"] != "completed":
        raise RuntimeError(f"a writer is {info['state']}: {info['outcome']}")


def _has_size(path: str, size: int) -> bool:
    return os.stat(path).st_size == size


def _until(condition: Callable[[], bool]) -> None:
    """Look again and again without a pause: a pause would be part of what is measured."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_PATIENCE_S:g} s")
