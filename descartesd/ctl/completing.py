"""What may follow a command line that is still being typed, by the tables its parser is made of."""

from __future__ import annotations

import shlex
from argparse import Action
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from descartesd.ctl.command import (
    NOUNS,
    SINGLE,
    Command,
    actions_of,
    build_parser,
    find_command,
    next_word,
)
from descartesd.ctl.offers import Answer, Line, Offer, values

_ENDINGS = ("x", "x'", 'x"')
_HELP = Offer("--help", "explain it")
_NOTHING_YET = Command("", ("", ""), lambda _args, _out: 0)


def complete(line: str) -> Answer:
    """Tell what may follow a line, of which the first word is this program.

    The server is asked for names of what it has; where it does not answer there are none.
    """
    *words, current = split_line(line)[1:] or [""]
    head = words[: words.index("--")] if "--" in words else words
    title, command, rest = _find(head)
    if head != words:
        takes_command = command is not None and command.takes_command
        return Answer(kind="programs" if takes_command and words[-1] == "--" else "files")
    actions = actions_of(build_parser(title, command or _NOTHING_YET))
    told = _read(rest, actions, current)
    if told.waits_for is not None:
        return values(title, told.waits_for, told.line)
    if current.startswith("-"):
        return _option(actions, told)
    if command is None:
        # Behind a word nobody knows nothing is known either.
        known = [] if told.line.positionals else _names(title)
        return Answer(_fitting(known, current))
    positional = _positional(actions, len(told.line.positionals))
    return Answer() if positional is None else values(title, positional, told.line)


def split_line(line: str) -> list[str]:
    """The words of a line as a shell has them; the last one is being typed, and may be ''."""
    for ending in _ENDINGS:
        try:
            words = shlex.split(line + ending)
        except ValueError:
            # A quotation is still open.
            continue
        return [*words[:-1], words[-1].removesuffix("x")]
    return []


def _find(words: list[str]) -> tuple[str, Command | None, list[str]]:
    """The command that is named, or its noun alone, or ''; and the words that are none of it."""
    noun, rest = next_word(words)
    if noun in SINGLE:
        return noun, find_command(SINGLE[noun].module, SINGLE[noun].verb), rest
    if noun not in NOUNS:
        return "", None, words
    verb, after = next_word(rest)
    if verb not in NOUNS[noun].verbs:
        return noun, None, rest
    return f"{noun} {verb}", find_command(NOUNS[noun].verbs[verb], verb), after


def _names(noun: str) -> list[Offer]:
    """The verbs of a noun, or what a line may begin with."""
    if noun:
        modules = NOUNS[noun].verbs
        return [Offer(verb, find_command(at, verb).summary) for verb, at in modules.items()]
    return [Offer(name, each.summary) for name, each in (NOUNS | SINGLE).items()]


class _Told(NamedTuple):
    """What the words behind a command say, and the option that still waits for its value."""

    line: Line
    waits_for: Action | None


def _read(words: Sequence[str], actions: Sequence[Action], current: str) -> _Told:
    options = {name: action for action in actions for name in action.option_strings}
    given: dict[str, str] = {}
    positionals: list[str] = []
    waits_for: Action | None = None
    for word in words:
        name, joined, value = word.partition("=")
        if waits_for is not None:
            given[waits_for.dest] = word
            waits_for = None
        elif not word.startswith("-"):
            positionals.append(word)
        elif (action := options.get(name)) is not None:
            given[action.dest] = value
            waits_for = action if action.nargs != 0 and not joined else None
    begun, joined, value = current.partition("=")
    joined_to = options.get(begun) if joined and waits_for is None else None
    if joined_to is not None and joined_to.nargs != 0:
        return _Told(Line(positionals, given, value, f"{begun}="), joined_to)
    return _Told(Line(positionals, given, current), waits_for)


def _option(actions: Iterable[Action], told: _Told) -> Answer:
    known = [
        Offer(action.option_strings[-1], action.help or "")
        for action in actions
        # One that may be repeated collects its values.
        if action.option_strings and (action.dest not in told.line.given or action.default == [])
    ]
    return Answer(_fitting([*known, _HELP], told.line.current))


def _positional(actions: Iterable[Action], before: int) -> Action | None:
    """The word that comes after so many others, None where there is to be none."""
    for action in actions:
        if not action.option_strings:
            if before == 0 or action.nargs in ("*", "+"):
                return action
            before -= 1
    return None


def _fitting(offers: Iterable[Offer], current: str) -> list[Offer]:
    return [offer for offer in offers if offer.word.startswith(current)]
