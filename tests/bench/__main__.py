"""`make bench`: measures every row, prints the table, and fails when a budget is missed."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import cli, control, idle, machine, output, recovery, spawn, table
from tests.bench.figures import Figure
from tests.bench.server import Bench

_ROWS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "control": control.run,
    "spawn": spawn.run,
    "output": output.run,
    "idle": idle.run,
    "recovery": recovery.run,
    "cli": cli.run,
}


def main() -> int:
    """Run the rows asked for; 1 when a budget is missed."""
    options = _options()
    # An end from outside unwinds like one from the keyboard: servers and directories go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as scratch:
        about = machine.describe(scratch)
        if not options.json:
            print("  ".join(f"{name} {value}" for name, value in about.items()))
            print(table.head(), flush=True)
        figures = []
        for figure in _measure(options.row or list(_ROWS), Bench(options.quick, Path(scratch))):
            figures.append(figure)
            if not options.json:
                print(table.line(figure), flush=True)
    if options.json:
        print(json.dumps({"machine": about, "rows": [_as_json(each) for each in figures]}))
    return 1 if any(figure.verdict == "MISS" for figure in figures) else 0


def _measure(rows: list[str], bench: Bench) -> Iterator[Figure]:
    for name in rows:
        yield from _ROWS[name](bench)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--row", action="append", choices=list(_ROWS), help="only this row")
    parser.add_argument("--quick", action="store_true", help="shorter and less exact")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args()


def _as_json(figure: Figure) -> dict[str, Any]:
    return {
        "row": figure.row,
        "unit": figure.unit,
        "ours": figure.ours,
        "reference": figure.reference,
        "ratio": figure.ratio,
        "budget": None if figure.budget is None else str(figure.budget),
        "ok": None if figure.budget is None else figure.verdict == "ok",
        "notes": list(figure.notes),
    }


if __name__ == "__main__":
    sys.exit(main())
