"""Entry point of descartesctl: finds the noun and the verb and loads the one module they need."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

from descartesd.ctl import INTERRUPTED, be_interruptible
from descartesd.ctl.command import (
    GLOBAL_FLAGS,
    GLOBAL_VALUES,
    NOUNS,
    PROGRAM,
    SINGLE,
    HelpAsked,
    find_command,
    next_word,
    parse,
    suggest,
)
from descartesd.ctl.output import Output
from descartesd.errors import DescartesError, InternalError, InvalidArgumentError

_HELP = ("-h", "--help")
# What a shell shows for a program that SIGPIPE ended.
_READER_GONE = 141


def main() -> NoReturn:
    """Run one command and end with its exit status."""
    # Imports leave no garbage worth looking for; it is looked for again once there is a client.
    gc.disable()
    # The libraries take it where it is installed and need it nowhere: it is a tenth of a start.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # as the import system has it
    try:
        be_interruptible()
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        # It came before there was anything to end, or once more.
        status = INTERRUPTED
    # Everything is printed and closed: taking the interpreter apart would cost a start once more.
    os._exit(status)


def run(words: list[str]) -> int:
    """Run one command and return its exit status."""
    head, after = _split(words)
    out = Output(json="--json" in head, quiet="--quiet" in head)
    try:
        return _guarded(head, after, out)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _READER_GONE


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _guarded(head: list[str], after: list[str] | None, out: Output) -> int:
    try:
        return _finished(head, after, out)
    except OverflowError:
        error: DescartesError = InvalidArgumentError("a number is larger than 64 bits can say")
    except UnicodeEncodeError:
        error = InvalidArgumentError("an argument is not valid UTF-8")
    except DescartesError as exc:
        error = exc
    except BrokenPipeError:
        raise
    except OSError as exc:
        error = InternalError(str(exc))
    # Where it cannot be told the status is left.
    with suppress(DescartesError):
        out.error(error)
    return error.exit_status


def _finished(head: list[str], after: list[str] | None, out: Output) -> int:
    try:
        status = _run(head, after, out)
    except HelpAsked as exc:
        out.text(exc.text)
        status = 0
    out.flush()
    return status


def _run(head: list[str], after: list[str] | None, out: Output) -> int:
    noun, rest = next_word(head)
    if noun in _HELP or noun == "--version":
        return _about(noun, out)
    if noun in SINGLE:
        _, module, verb = SINGLE[noun]
        title = noun
    elif noun in NOUNS:
        modules = NOUNS[noun].verbs
        verb, rest = next_word(rest)
        if verb in _HELP:
            return _about(noun, out)
        if verb not in modules:
            raise _unknown("verb", verb, modules, f"{PROGRAM} {noun}")
        module, title = modules[verb], f"{noun} {verb}"
    else:
        raise _unknown("noun", noun, NOUNS | SINGLE, PROGRAM)
    command = find_command(module, verb)
    return command.run(parse(title, command, rest, after), out)


def _about(word: str, out: Output) -> int:
    from descartesd.ctl import topics  # noqa: PLC0415  # start-up time

    if word == "--version":
        out.text(topics.version())
    else:
        out.text(topics.verbs(word) if word in NOUNS else topics.overview())
    return 0


def _unknown(kind: str, word: str, known: Iterable[str], prog: str) -> InvalidArgumentError:
    otherwise = f"see: {prog} --help"
    if not word:
        names = ", ".join(known)
        return InvalidArgumentError(f"a {kind} is missing: expected {names}", hint=otherwise)
    if word.startswith("-"):
        shown = word.partition("=")[0]
        if shown in GLOBAL_FLAGS:
            return InvalidArgumentError(f"{shown} takes no value", hint=otherwise)
        message = f"unknown option '{shown}' in front of the {kind}"
        behind = f"options of a verb stand behind it; {otherwise}"
        return InvalidArgumentError(
            message, hint=suggest(shown, (*GLOBAL_FLAGS, *GLOBAL_VALUES), behind)
        )
    return InvalidArgumentError(f"unknown {kind} '{word}'", hint=suggest(word, known, otherwise))


if __name__ == "__main__":
    main()
