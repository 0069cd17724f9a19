"""Entry point of descartesctl: finds the noun and the verb and loads nothing but their module."""

from __future__ import annotations

import sys
from importlib import import_module

from descartesd.ctl.command import (
    GLOBAL_FLAGS,
    GLOBAL_VALUES,
    NOUNS,
    SINGLE,
    Command,
    parse,
    suggest,
)
from descartesd.ctl.output import Output
from descartesd.errors import DescartesError, InternalError, InvalidArgumentError

_HELP = ("-h", "--help")
_INTERRUPTED = 130
# What a shell shows for a program that SIGPIPE ended.
_READER_GONE = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    head, after = _split(sys.argv[1:] if argv is None else argv)
    out = Output(json="--json" in head, quiet="--quiet" in head)
    try:
        status = _guarded(head, after, out)
        out.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        out.discard()
        return _READER_GONE
    return status


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _guarded(head: list[str], after: list[str] | None, out: Output) -> int:
    try:
        return _run(head, after, out)
    except SystemExit as exc:  # argparse after --help
        return int(exc.code or 0)
    except UnicodeEncodeError:
        error: DescartesError = InvalidArgumentError("an argument is not valid UTF-8")
    except DescartesError as exc:
        error = exc
    except BrokenPipeError:
        raise
    except OSError as exc:
        error = InternalError(str(exc))
    out.error(error)
    return error.exit_status


def _run(head: list[str], after: list[str] | None, out: Output) -> int:
    noun, rest = _next_word(head)
    if noun in _HELP or noun == "--version":
        return _about(noun, out)
    if noun in SINGLE:
        single = SINGLE[noun]
        return _execute(noun, _commands(single.module)[single.verb], (rest, after), out)
    if noun not in NOUNS:
        raise _unknown("noun", noun, [*NOUNS, *SINGLE], "descartesctl")
    commands = _commands(noun)
    verb, rest = _next_word(rest)
    if verb in _HELP:
        from descartesd.ctl.topics import verbs  # noqa: PLC0415  # start-up time

        out.text(verbs(noun, NOUNS[noun], commands))
        return 0
    if verb not in commands:
        raise _unknown("verb", verb, commands, f"descartesctl {noun}")
    return _execute(f"{noun} {verb}", commands[verb], (rest, after), out)


def _next_word(words: list[str]) -> tuple[str, list[str]]:
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


def _commands(module: str) -> dict[str, Command]:
    commands: dict[str, Command] = import_module(f"descartesd.ctl.{module}").COMMANDS
    return commands


def _about(word: str, out: Output) -> int:
    from descartesd.ctl.topics import overview, version  # noqa: PLC0415  # start-up time

    out.text(version() if word == "--version" else overview())
    return 0


def _unknown(kind: str, word: str, known: object, prog: str) -> InvalidArgumentError:
    names = [str(name) for name in known]  # type: ignore[attr-defined]
    otherwise = f"see: {prog} --help"
    if not word:
        return InvalidArgumentError(
            f"a {kind} is missing: expected {', '.join(names)}", hint=otherwise
        )
    if word.startswith("-"):
        shown = word.partition("=")[0]
        message = f"unknown option '{shown}' in front of the {kind}"
        return InvalidArgumentError(message, hint=f"options of a verb stand behind it; {otherwise}")
    return InvalidArgumentError(f"unknown {kind} '{word}'", hint=suggest(word, names, otherwise))


def _execute(
    title: str, command: Command, words: tuple[list[str], list[str] | None], out: Output
) -> int:
    return command.run(parse(title, command, *words), out)


if __name__ == "__main__":
    sys.exit(main())
