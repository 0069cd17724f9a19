"""What a command of descartesctl is, and the parser that reads its words."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from descartesd.ctl.values import duration, positive_duration
from descartesd.errors import InvalidArgumentError

if TYPE_CHECKING:
    from descartesd.ctl.output import Output

PROGRAM = "descartesctl"


class Noun(NamedTuple):
    """A noun; each verb stands in the COMMANDS of a module of this package."""

    summary: str
    verbs: dict[str, str]


class Single(NamedTuple):
    """A command without a noun, and the module and the verb it is there."""

    summary: str
    module: str
    verb: str


NOUNS = {
    "agent": Noun(
        "start, control and read agents",
        {
            "spawn": "spawn",
            "list": "agent",
            "ps": "agent",
            "show": "agent",
            "wait": "acting",
            "logs": "logs",
            "write": "write",
            "pause": "acting",
            "resume": "acting",
            "stop": "acting",
            "kill": "acting",
            "signal": "acting",
            "respawn": "acting",
            "remove": "acting",
        },
    ),
    "event": Noun("what happens", {"follow": "event"}),
    "action": Noun("custom actions of the server", {"list": "action", "run": "action"}),
    "server": Noun(
        "facts about the server, and its end",
        {
            "health": "server",
            "info": "server",
            "stats": "server",
            "methods": "server",
            "drain": "server",
        },
    ),
    "cert": Noun("certificates of clients", {"issue": "cert"}),
}
SINGLE = {
    "ps": Single("list agents (the same as agent list)", "agent", "list"),
    "bench": Single("measure a server", "bench", "bench"),
    "demo": Single("play ten scenarios on a server of its own", "demo", "demo"),
    "doctor": Single("check this host, the profile and the server", "doctor", "doctor"),
    "help": Single("explain a topic: exit-codes", "topics", "help"),
}
# Told apart from the noun and the verb when they stand in front of them.
GLOBAL_FLAGS = ("--json", "--quiet")
GLOBAL_VALUES = ("--profile", "--timeout", "--wait-for-server")
GLOBALS_USAGE = "[--profile FILE|NAME] [--json] [--quiet] [--timeout S] [--wait-for-server S]"
_MAX_WIDTH = 100
ID_HELP = "a name, an id, or the first characters of an id (at least 4)"


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


class Command(NamedTuple):
    """One verb: `run` returns the exit status and prints through the Output alone.

    With `takes_command` the words after `--` are left alone and given as `args.command`.
    """

    summary: str
    examples: tuple[str, str]
    run: Callable[[argparse.Namespace, Output], int]
    arguments: Callable[[argparse.ArgumentParser], None] = no_arguments
    takes_command: bool = False


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # The default asks shutil for the width, whose import costs as much as argparse's own.
        super().__init__(prog, max_help_position=28, width=_terminal_width())


def _terminal_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return min(int(columns), _MAX_WIDTH)
    try:
        return min(os.get_terminal_size(1).columns or _MAX_WIDTH, _MAX_WIDTH)
    except OSError:
        return _MAX_WIDTH


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidArgumentError(message, hint=f"see: {self.prog} --help")


def find_command(module: str, verb: str) -> Command:
    """Load the module of a verb, and no other."""
    command: Command = import_module(f"descartesd.ctl.{module}").COMMANDS[verb]
    return command


def parse(
    title: str, command: Command, words: list[str], after: list[str] | None
) -> argparse.Namespace:
    """Read the words of a command; `after` is what stood behind `--`, None when there was none.

    Raises InvalidArgumentError; SystemExit after `--help`.
    """
    parser = build_parser(title, command)
    if command.takes_command or after is None:
        # Options may also stand between the words of a list, as in 'stop a --grace 5 b'.
        args, extra = parser.parse_known_intermixed_args(words)
    else:
        # That would lose the dashes.
        args, extra = parser.parse_known_args([*words, "--", *after])
    if extra:
        _refuse(parser, command, extra[0])
    if command.takes_command:
        args.command = after
    return args


def build_parser(title: str, command: Command) -> argparse.ArgumentParser:
    """Build the parser of one command, its help ending with the two examples."""
    parser = _Parser(
        prog=f"{PROGRAM} {title}",
        description=command.summary,
        epilog="\n".join(("examples:", *(f"  {PROGRAM} {line}" for line in command.examples))),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    if command.takes_command:
        parser.usage = f"{PROGRAM} {title} [options] -- COMMAND [ARG ...]"
    command.arguments(parser)
    _add_globals(parser)
    return parser


def _add_globals(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("global options")
    group.add_argument(
        "--profile", metavar="FILE|NAME", help="who to speak as, and to which server"
    )
    group.add_argument("--json", action="store_true", help="print the wire types as JSON")
    group.add_argument("--quiet", action="store_true", help="print ids only")
    group.add_argument(
        "--timeout", metavar="S", type=positive_duration, help="give up after so many seconds"
    )
    group.add_argument(
        "--wait-for-server",
        metavar="S",
        type=duration,
        default=0.0,
        help="seconds to wait for a server that is not up yet",
    )


def _refuse(parser: argparse.ArgumentParser, command: Command, word: str) -> NoReturn:
    name, equals, _ = word.partition("=")
    # What stands behind '=' may be the value of an environment variable.
    shown = f"{name}=…" if equals else name
    if not word.startswith("-"):
        hint = f"see: {parser.prog} --help"
        if command.takes_command:
            hint = f"the agent's command stands after '--': {parser.prog} -- {name}"
        raise InvalidArgumentError(f"unexpected argument '{shown}'", hint=hint)
    known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001  # argparse tells its options nowhere else
    raise InvalidArgumentError(
        f"unknown option '{shown}'", hint=suggest(name, known, f"see: {parser.prog} --help")
    )


def suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Name the nearest known word, or say something else."""
    from difflib import get_close_matches  # noqa: PLC0415  # only errors need it

    near = get_close_matches(word, list(known), n=1)
    return f"did you mean '{near[0]}'" if near else otherwise


def add_id(parser: argparse.ArgumentParser) -> None:
    """Add the agent a verb is about, as `args.id`."""
    parser.add_argument("id", metavar="ID", help=ID_HELP)


def add_ids(parser: argparse.ArgumentParser) -> None:
    """Add the agents a verb acts on, as `args.ids`."""
    parser.add_argument("ids", metavar="ID", nargs="+", help=ID_HELP)
