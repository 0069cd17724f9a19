"""docs/reference/cli.md, from the parsers of the three programs."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import argparse
from collections.abc import Iterator

from methods_page import anchor, page, sentences, table

from descartesd import main as daemon_program
from descartesd.ctl import command as ctl
from descartesd.keeper.main import OPTIONS as KEEPER_OPTIONS
from descartesd.keeper.main import USAGE as KEEPER_USAGE

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

_GLOBAL = {*ctl.GLOBAL_FLAGS, *ctl.GLOBAL_VALUES}


def cli_page() -> str:
    """docs/reference/cli.md."""
    return page(
        "Command line",
        "the parsers of descartesd/ctl, descartesd/main.py and descartesd/keeper/main.py",
        CLI_INTRO,
        global_options(),
        commands(),
        f"## descartesd\n\n```text\n{daemon_program.build_parser().format_help()}```\n",
        f"## descartes-keeper\n\n```text\n{KEEPER_USAGE}\n```\n",
        keeper_options(),
    )


def global_options() -> str:
    """The table of the options every command of descartesctl has."""
    _, command = next(_commands())
    shared = [each for each in _actions("", command) if _GLOBAL & set(each.option_strings)]
    return table(("option", "meaning"), map(_option, shared))


def commands() -> str:
    """A chapter for each command of descartesctl."""
    known = dict(_commands())
    return "\n".join(_section(title, command, known) for title, command in known.items())


def options(parser: argparse.ArgumentParser) -> str:
    """The table of a parser's options."""
    named = (each for each in ctl.actions_of(parser) if each.option_strings)
    return table(("option", "meaning"), map(_option, named))


def keeper_options() -> str:
    """The table of the options of descartes-keeper."""
    return table(
        ("option", "meaning"), ((f"`{name}`", about) for name, about in KEEPER_OPTIONS.items())
    )


def _commands() -> Iterator[tuple[str, ctl.Command]]:
    for noun, (_, verbs) in ctl.NOUNS.items():
        for verb, module in verbs.items():
            yield f"{noun} {verb}", ctl.find_command(module, verb)
    for name, single in ctl.SINGLE.items():
        yield name, ctl.find_command(single.module, single.verb)


def _actions(title: str, command: ctl.Command) -> list[argparse.Action]:
    return ctl.actions_of(ctl.build_parser(title, command))


def _section(title: str, command: ctl.Command, known: dict[str, ctl.Command]) -> str:
    first = next(each for each, other in known.items() if other is command)
    if first != title:
        return f"## {title}\n\nThe same as [{first}](#{anchor(first)}).\n"
    return _command(title, command)


def _command(title: str, command: ctl.Command) -> str:
    actions = [a for a in _actions(title, command) if not _GLOBAL & set(a.option_strings)]
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
    # argparse wants a percent sign twice.
    return f"`{shown}`", (action.help or "").replace("%%", "%").replace("|", r"\|")
