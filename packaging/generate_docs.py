#!/usr/bin/env python3
"""Writes the reference pages that derive from the code; `--check` only says which are stale."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hooks_page import hooks_page
from methods_page import anchor, methods_page, page, sentences, table
from metrics_page import metrics_page

from descartesd import main as daemon_program
from descartesd.agents.lifecycle import TRANSITIONS
from descartesd.config.reference import reference
from descartesd.ctl import command as ctl
from descartesd.ctl.topics import exit_codes
from descartesd.errors import ERRORS
from descartesd.keeper.main import USAGE as KEEPER_USAGE

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


CLI_INTRO = """
`descartesctl` speaks to a server, `descartesd` is the server, `descartes-keeper` is started by it.
Standard output carries data, standard error everything else.
With `--json` a command prints the wire types, described in [methods](methods.md),
and an error is one line `{"error": {…}}` on standard error, with the same
[exit status](exit-codes.md).

The profile is the one `--profile` names (a file, or a name in `~/.config/descartes`), or the one
`DESCARTES_PROFILE` names, or `~/.config/descartes/default.toml`, or the Unix socket
`/run/descartes/control.sock`.

## Global options

They stand before or after noun and verb, never after `--`.
"""


def cli_page() -> str:
    """docs/reference/cli.md."""
    commands = dict(_commands())
    general = next(iter(commands.values()))
    names = {option for action in _actions("", general) for option in action.option_strings}
    known = {*ctl.GLOBAL_FLAGS, *ctl.GLOBAL_VALUES} & names
    shared = [a for a in _actions("", general) if known & set(a.option_strings)]
    return page(
        "Command line",
        "the parsers of descartesd/ctl, descartesd/main.py and descartesd/keeper/main.py",
        CLI_INTRO,
        table(("option", "meaning"), map(_option, shared)),
        *(_section(title, command, commands, known) for title, command in commands.items()),
        f"## descartesd\n\n```text\n{_daemon_help()}```\n",
        f"## descartes-keeper\n\n```text\n{KEEPER_USAGE}\n```\n",
    )


def _commands() -> Iterator[tuple[str, ctl.Command]]:
    for noun, (_, verbs) in ctl.NOUNS.items():
        for verb, module in verbs.items():
            yield f"{noun} {verb}", ctl.find_command(module, verb)
    for name, single in ctl.SINGLE.items():
        yield name, ctl.find_command(single.module, single.verb)


def _actions(title: str, command: ctl.Command) -> list[argparse.Action]:
    return ctl.actions_of(ctl.build_parser(title, command))


def _section(
    title: str, command: ctl.Command, commands: dict[str, ctl.Command], known: set[str]
) -> str:
    first = next(each for each, other in commands.items() if other is command)
    if first != title:
        return f"## {title}\n\nThe same as [{first}](#{anchor(first)}).\n"
    return _command(title, command, known)


def _command(title: str, command: ctl.Command, known: set[str]) -> str:
    actions = [a for a in _actions(title, command) if not known & set(a.option_strings)]
    options = [a for a in actions if a.option_strings]
    words = [_positional(a) for a in actions if not a.option_strings]
    tail = ["--", "COMMAND", "[ARG …]"] if command.takes_command else []
    synopsis = [ctl.PROGRAM, title, *(["[options]"] if options else []), *words, *tail]
    explained = [a for a in actions if a.option_strings or a.help]
    parts = [
        f"## {title}\n",
        sentences(command.summary) + "\n",
        f"```text\n{' '.join(synopsis)}\n```\n",
        *([table(("argument", "meaning"), map(_option, explained))] if explained else []),
        "Examples:\n",
        "".join(f"- `{ctl.PROGRAM} {line}`\n" for line in command.examples),
    ]
    return "\n".join(parts)


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    several = {"+": f"{name} [{name} …]", "*": f"[{name} …]", "?": f"[{name}]"}
    return several.get(str(action.nargs), name)


def _option(action: argparse.Action) -> tuple[str, str]:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest.upper())
    value = ""
    if action.option_strings and action.nargs != 0:
        value = f" {action.metavar or '|'.join(action.choices or [action.dest.upper()])}"
    shown = f"{names}{value}".replace("|", r"\|")
    return f"`{shown}`", (action.help or "").replace("|", r"\|")


def _daemon_help() -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        daemon_program.main(["--help"])
    return text.getvalue()


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
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/exit-codes.md": exit_codes_page,
    "docs/reference/configuration.md": reference,
    "docs/reference/cli.md": cli_page,
    "docs/explanation/lifecycle.md": lifecycle_page,
}


if __name__ == "__main__":
    sys.exit(main())
