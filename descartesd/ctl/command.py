"""What a command of descartesctl is, and the parser that reads its words."""

from __future__ import annotations

import argparse
import os
import shlex
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
            "attach": "attach",
            "write": "write",
            "say": "talk",
            "answer": "talk",
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
    "plugin": Noun(
        "plugins of the server",
        {"list": "plugin", "show": "plugin", "check": "plugin_check"},
    ),
    "server": Noun(
        "facts about the server, and its end",
        {
            "health": "server",
            "info": "server",
            "stats": "server",
            "methods": "server",
            "drain": "server",
            "reload": "server",
        },
    ),
    "cert": Noun(
        "certificates of clients",
        {
            "issue": "cert",
            "add": "cert",
            "sign": "authority",
            "authority": "authority",
            "token": "join",
            "list": "certs",
            "show": "certs",
            "revoke": "certs",
            "renew": "certs",
            "rotate": "authority",
        },
    ),
    "config": Noun(
        "the configuration of a server, read without one", {"show": "config", "check": "config"}
    ),
    "policy": Noun("who may do what", {"explain": "policy"}),
    "audit": Noun("who did what", {"show": "audit", "verify": "audit"}),
}
SINGLE = {
    "ps": Single("list agents (the same as agent list)", "agent", "list"),
    "bench": Single("measure a server", "bench", "bench"),
    "demo": Single("play ten scenarios on a server of its own", "demo", "demo"),
    "doctor": Single("check this host, the profile and the server", "doctor", "doctor"),
    "login": Single("make a profile with a join string", "join", "login"),
    "completion": Single("complete words in bash, zsh or fish", "completion", "completion"),
    "help": Single("explain a noun, or the topic exit-codes", "topics", "help"),
}
# Told apart from the noun and the verb when they stand in front of them.
GLOBAL_FLAGS = ("--json", "--quiet")
GLOBAL_VALUES = ("--profile", "--timeout", "--wait-for-server")
GLOBALS_USAGE = "[--profile FILE|NAME] [--json] [--quiet] [--timeout S] [--wait-for-server S]"
_MAX_WIDTH = 100
# What other programs call an option of ours.
_ELSEWHERE = {"-n": "--tail"}
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
    # Lines to add to the help, where words say what about.
    explain: Callable[[argparse.Namespace], list[str]] | None = None


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


class HelpAsked(SystemExit):
    """`--help` was given, which takes the place of the command; `text` is the help."""

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self.text = text


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: object = None) -> NoReturn:  # noqa: ARG002  # as argparse has it
        # argparse would pass over what cannot be written.
        raise HelpAsked(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        option, needless, _ = message.partition(": ignored explicit argument ")
        if needless:
            message = f"{option.removeprefix('argument ')} takes no value"
        raise InvalidArgumentError(message, hint=f"see: {self.prog} --help")


def next_word(words: list[str]) -> tuple[str, list[str]]:
    """Find the first word that belongs to no global option; '' when there is none."""
    at = 0
    while at < len(words):
        word = words[at]
        if word in GLOBAL_VALUES:
            at += 2
        elif word in GLOBAL_FLAGS or word.partition("=")[0] in GLOBAL_VALUES:
            at += 1
        else:
            return word, words[:at] + words[at + 1 :]
    return "", words


def find_command(module: str, verb: str) -> Command:
    """Load the module of a verb, and no other."""
    command: Command = import_module(f"descartesd.ctl.{module}").COMMANDS[verb]
    return command


def parse(
    title: str, command: Command, words: list[str], after: list[str] | None
) -> argparse.Namespace:
    """Read the words of a command; `after` is what stood behind `--`, None when there was none.

    Raises InvalidArgumentError; HelpAsked for `--help`.
    """
    parser = build_parser(title, command)
    if command.explain is not None and (asked := _without_help(words)) != words:
        _explain(parser, command.explain, asked)
    if command.takes_command or after is None:
        # Options may also stand between the words of a list, as in 'stop a --grace 5 b'.
        args, extra = parser.parse_known_intermixed_args(words)
    else:
        # That would lose the dashes.
        args, extra = parser.parse_known_args([*words, "--", *after])
    if extra and command.takes_command and after is None and not extra[0].startswith("-"):
        raise InvalidArgumentError(
            f"unexpected argument '{_shown(extra[0])}'",
            hint=f"the agent's command stands after '--': {_with_dashes(parser, words)}",
        )
    if extra:
        _refuse(parser, extra[0])
    if command.takes_command:
        args.command = after
    return args


def _without_help(words: list[str]) -> list[str]:
    return [word for word in words if word not in ("-h", "--help")]


def _explain(
    parser: argparse.ArgumentParser,
    explain: Callable[[argparse.Namespace], list[str]],
    words: list[str],
) -> NoReturn:
    """Show the help, with what it is about where words say so."""
    try:
        args, _ = parser.parse_known_intermixed_args(words)
    except InvalidArgumentError:
        raise HelpAsked(parser.format_help().rstrip("\n")) from None
    raise HelpAsked("\n".join([parser.format_help().rstrip("\n"), *explain(args)]))


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


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Everything a parser reads but `--help`."""
    actions = parser._actions  # noqa: SLF001  # argparse tells its options nowhere else
    return [action for action in actions if action.dest != "help"]


def _refuse(parser: argparse.ArgumentParser, word: str) -> NoReturn:
    otherwise = f"see: {parser.prog} --help"
    if not word.startswith("-"):
        raise InvalidArgumentError(f"unexpected argument '{_shown(word)}'", hint=otherwise)
    known = ("--help", "-h", *_options(parser))
    meant = _ELSEWHERE.get(word[:2], word.partition("=")[0])
    raise InvalidArgumentError(
        f"unknown option '{_shown(word)}'", hint=suggest(meant, known, otherwise)
    )


def _shown(word: str) -> str:
    """A word for people; what stands behind '=' may be the value of an environment variable."""
    name, equals, _ = word.partition("=")
    return f"{name}=…" if equals else name


def _with_dashes(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """The command as it should have been typed."""
    takes_value = {name for name, action in _options(parser).items() if action.nargs != 0}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in takes_value else 1
    safe = [
        _shown(word) if number == at or _may_be_secret(word, before) else word
        for number, (word, before) in enumerate(zip(words, ["", *words], strict=False))
    ]
    parts = (parser.prog, shlex.join(safe[:at]), "--", shlex.join(safe[at:]))
    return " ".join(part for part in parts if part)


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: action for action in actions_of(parser) for name in action.option_strings}


def _may_be_secret(word: str, before: str) -> bool:
    """Whether a word of a command looks like a variable of the environment, or is one."""
    return word.partition("=")[0].isupper() or before == "--env" or word.startswith("--env=")


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
