#!/usr/bin/env python3
"""Writes the reference pages that derive from the code; `--check` only says which are stale."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cli_page import cli_page
from hooks_page import hooks_page
from log_page import log_page
from methods_page import methods_page, page, table
from metrics_page import metrics_page

from descartesd.agents.lifecycle import TRANSITIONS
from descartesd.config.reference import reference
from descartesd.ctl.topics import exit_codes
from descartesd.errors import ERRORS

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- begin generated from {} -->\n", "<!-- end generated -->\n"


def main() -> int:
    """Write every page that differs, or with `--check` name them; 1 when one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    os.environ["COLUMNS"] = "80"  # the width argparse would else take from the terminal
    stale = [
        (path, text)
        for path, text in ((ROOT / name, make()) for name, make in PAGES.items())
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        name = path.relative_to(ROOT)
        if check:
            sys.stderr.write(f"{name} is stale: run make docs\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
    return 1 if check and stale else 0


ERRORS_INTRO = """
An error has a `code`, a `message` (a sentence that says what is and what was expected),
often a `hint` (the next step), `retryable`, and sometimes `details`.
Act on the code; the sentence is for people and may change.
`retryable` says whether the same request may succeed when it is sent again later.
The table has its usual value, the error itself has the one that counts:
`deadline_exceeded` is retryable for methods of the classes `read`, `state` and `idem`,
`unavailable` is not when the request may have been carried out.
"""


def errors_page() -> str:
    """docs/reference/errors.md."""
    rows = (
        (
            f"`{code}`",
            f"`{error.__name__}`",
            str(error.exit_status),
            "yes" if error.default_retryable else "no",
            (error.__doc__ or "").replace("\n", " "),
        )
        for code, error in ERRORS.items()
    )
    headers = ("code", "Python class", "exit status", "retryable", "meaning")
    return page("Errors", "descartesd/errors.py", ERRORS_INTRO, table(headers, rows))


EXIT_INTRO = """
The exit status of `descartesctl`, as `descartesctl help exit-codes` prints it.
`descartesd` itself ends with 0 after an orderly stop, with 78 when it refuses to start,
and with 2 when its options are wrong or `--check-config` finds a fault.
`descartesd init` ends as `descartesctl` does: with 2 for an endpoint or a name that cannot be,
with 3 for a path that leads nowhere, with 4 where it may not write,
with 7 where there is something already, and with 8 on a full disk.
"""


def exit_codes_page() -> str:
    """docs/reference/exit-codes.md."""
    text = f"```text\n{exit_codes()}\n```\n"
    return page("Exit codes", "descartesd/ctl/topics.py", EXIT_INTRO, text)


def lifecycle_page() -> str:
    """docs/explanation/lifecycle.md, with its table of transitions."""
    rows = (
        (f"`{state}`", ", ".join(f"`{each}`" for each in TRANSITIONS if each in following))
        for state, following in TRANSITIONS.items()
    )
    path = ROOT / "docs/explanation/lifecycle.md"
    begin = BEGIN.format("descartesd/agents/lifecycle.py")
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n{table(('from', 'to'), rows)}\n{END}{after}"


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/methods.md": methods_page,
    "docs/reference/hooks.md": hooks_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/log.md": log_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/exit-codes.md": exit_codes_page,
    "docs/reference/configuration.md": reference,
    "docs/reference/cli.md": cli_page,
    "docs/explanation/lifecycle.md": lifecycle_page,
}


if __name__ == "__main__":
    sys.exit(main())
