"""`make bench`: measures every row, prints the table, and fails when a budget is missed."""

from __future__ import annotations

import argparse
import json
import signal
import string
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench import (
    busy,
    cli,
    control,
    idle,
    machine,
    output,
    peer,
    plugged,
    recovery,
    spawn,
    table,
)
from tests.bench.figures import Figure
from tests.bench.server import Bench

# In the order of their letters, the first one being (a).
_ROWS: dict[str, tuple[Callable[[Bench], Iterator[Figure]], ...]] = {
    "control": (control.run, peer.run),
    "spawn": (spawn.run,),
    "output": (output.run,),
    "idle": (idle.run,),
    "cli": (cli.run,),
    "recovery": (recovery.run,),
    "busy": (busy.run,),
    "plugins": (plugged.run,),
}
_INTERRUPTED = 130


def main() -> int:
    """Run the rows asked for; 1 when a budget is missed, 130 after Ctrl-C."""
    options = _options()
    # An end from outside unwinds like one from the keyboard: servers and directories go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    # Who asked for a document still wants to see that it goes on.
    lines = sys.stderr if options.json or options.markdown else sys.stdout
    figures = []
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as scratch:
        about = machine.describe(scratch)
        about_text = "  ".join(f"{name} {value}" for name, value in about.items())
        print(about_text, table.head(), sep="\n", file=lines, flush=True)
        bench = Bench(options.quick, Path(scratch))
        for figure in _measure(options.row or list(_ROWS), bench):
            figures.append(figure)
            print(table.line(figure), file=lines, flush=True)
    if options.json:
        print(json.dumps({"machine": about, "rows": [_as_json(each) for each in figures]}))
    if options.markdown:
        print(table.markdown(about, figures))
    return 1 if any(figure.verdict == "MISS" for figure in figures) else 0


def _measure(names: list[str], bench: Bench) -> Iterator[Figure]:
    letters = dict(zip(_ROWS, string.ascii_lowercase, strict=False))
    for name in names:
        for measure in _ROWS[name]:
            for figure in measure(bench):
                yield replace(figure, row=f"({letters[name]}) {figure.row}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--row", action="append", choices=list(_ROWS), help="only this row")
    parser.add_argument("--quick", action="store_true", help="shorter and less exact")
    document = parser.add_mutually_exclusive_group()
    document.add_argument("--json", action="store_true", help="one JSON object on stdout")
    document.add_argument("--markdown", action="store_true", help="a Markdown table on stdout")
    return parser.parse_args()


def _as_json(figure: Figure) -> dict[str, Any]:
    return {
        "row": figure.row,
        "unit": figure.unit,
        "ours": figure.ours,
        "reference": figure.reference,
        "ratio": figure.ratio,
        "detail": figure.detail,
        "reference_detail": figure.reference_detail,
        "budget": None if figure.budget is None else str(figure.budget),
        "ok": figure.verdict == "ok" if figure.verdict else None,
        "notes": list(figure.notes),
    }


if __name__ == "__main__":
    sys.exit(main())
