"""The command line: a whole run, against the interpreter it runs on and against circus' own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

from tests.bench import circus
from tests.bench.figures import Budget, Figure, Pair, at_most, compare, not_measured
from tests.bench.server import Bench, measured
from tests.support.server import BIN

_AGENTS = 10
_COMMAND = ["/bin/sleep", "1d"]
_BARE = at_most(8.0)
_CIRCUSCTL = at_most(0.7)


def run(bench: Bench) -> Iterator[Figure]:
    """`descartesctl agent list --json` against `python -c pass` and `circusctl status`."""
    with measured(bench) as ours:
        ours.wire.spawn([{"command": _COMMAND}] * _AGENTS)
        profile = ["--profile", str(ours.server.admin)]
        ctl = [str(BIN / "descartesctl"), *profile, "agent", "list", "--json"]
        yield _against("the interpreter", [sys.executable, "-c", "pass"], ctl, bench, _BARE)
        try:
            with circus.running(bench.scratch) as theirs:
                with closing(circus.Caller(theirs)) as caller:
                    for _ in range(_AGENTS):
                        caller.add(_COMMAND)
                yield _against("circusctl", [*theirs.ctl, "status"], ctl, bench, _CIRCUSCTL)
        except circus.NotInstalledError as exc:
            yield not_measured("descartesctl agent list against circusctl", str(exc))


def _against(name: str, other: list[str], ctl: list[str], bench: Bench, budget: Budget) -> Figure:
    _wall(other), _wall(ctl)
    pairs = [Pair(_wall(other), _wall(ctl)) for _ in range(5 if bench.is_quick else 15)]
    notes = [f"{_AGENTS} agents, tcp, a connection and its handshake each time"]
    return compare(f"descartesctl agent list against {name}", "ms", pairs, budget, notes=notes)


def _wall(command: list[str]) -> float:
    """Milliseconds from start to exit."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1e3
