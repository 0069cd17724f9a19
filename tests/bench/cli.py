"""The command line: a whole run of a command, against the interpreter it runs on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.figures import Figure, Pair, at_most, compare
from tests.bench.server import Bench, measured
from tests.support.server import BIN

_AGENTS = 10
_BUDGET = at_most(8.0)


def run(bench: Bench) -> Iterator[Figure]:
    """`descartesctl agent list --json` against `python -c pass`."""
    with measured(bench) as ours:
        ours.wire.spawn([{"command": ["sleep", "1d"]}] * _AGENTS)
        bare = [sys.executable, "-c", "pass"]
        profile = ["--profile", str(ours.server.admin)]
        ctl = [str(BIN / "descartesctl"), *profile, "agent", "list", "--json"]
        _wall(bare), _wall(ctl)
        pairs = [Pair(_wall(bare), _wall(ctl)) for _ in range(5 if bench.is_quick else 15)]
        notes = [f"{_AGENTS} agents, tcp, a handshake each time"]
        yield compare("cli agent list", "ms", pairs, _BUDGET, notes=notes)


def _wall(command: list[str]) -> float:
    """Milliseconds from start to exit."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1e3
