"""`plugin check`: tells authors whether a plugin fits, without a server."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from descartesd.ctl.command import Command
from descartesd.ctl.output import Output

if TYPE_CHECKING:
    from descartesd.hooks.trial import Trial


def _check_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as its package registers it")
    parser.add_argument(
        "--config", metavar="FILE", help="a server's configuration, whose settings it is given"
    )


def _check(args: Namespace, out: Output) -> int:
    from descartesd.hooks.trial import try_out  # noqa: PLC0415  # start-up time

    # We do without it, see main; what a plugin imports may not.
    if sys.modules.get("typing_extensions", sys) is None:
        del sys.modules["typing_extensions"]

    trial = try_out(args.name, args.config)
    out.document(trial.report(), ids=[trial.name], lines=_lines(trial))
    return 0 if trial.fits else 1


def _lines(trial: Trial) -> list[str]:
    lines = []
    for name, fault, hint in trial.checks:
        lines.append(f"✓ {name}" if fault is None else f"✗ {name}: {fault}")
        if fault is not None and hint:
            lines.append(f"  hint: {hint}")
    return lines


COMMANDS = {
    "check": Command(
        summary="Load a plugin that is installed here and check each of its hooks, without a "
        "server; the exit status is 1 when something does not fit.",
        examples=("plugin check teams", "--json plugin check teams --config descartesd.toml"),
        run=_check,
        arguments=_check_arguments,
    ),
}
