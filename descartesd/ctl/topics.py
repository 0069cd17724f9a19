"""What descartesctl tells about itself: overview, verbs of a noun, version, help topics."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from functools import partial

from descartesd.ctl.command import (
    GLOBALS_USAGE,
    NOUNS,
    PROGRAM,
    SINGLE,
    Command,
    find_command,
    suggest,
)
from descartesd.ctl.output import Output
from descartesd.ctl.text import pairs
from descartesd.errors import ERRORS, InvalidArgumentError

# The statuses that are no error of the family.
_OTHER_STATUSES = {
    0: "it worked",
    1: "the agent, or a check asked for, failed",
    130: "interrupted",
    141: "whoever read the output went away",
}


def overview() -> str:
    """Text of `descartesctl --help`."""
    return "\n".join(
        [
            f"usage: {PROGRAM} {GLOBALS_USAGE} NOUN VERB …",
            "",
            *_indented({name: each.summary for name, each in (NOUNS | SINGLE).items()}),
            "",
            "Global options stand anywhere in front of '--'.",
            f"Verbs of a noun: {PROGRAM} NOUN --help; version: {PROGRAM} --version",
            "",
            "examples:",
            f"  {PROGRAM} agent spawn --name build-7 -- make -j4",
            f"  {PROGRAM} --json agent list",
        ]
    )


def verbs(noun: str) -> str:
    """Text of `descartesctl NOUN --help`."""
    summary, modules = NOUNS[noun]
    commands = {verb: find_command(module, verb) for verb, module in modules.items()}
    first = next(iter(commands.values()))
    return "\n".join(
        [
            f"usage: {PROGRAM} {GLOBALS_USAGE} {noun} VERB …",
            "",
            f"{summary}:",
            *_indented({verb: command.summary for verb, command in commands.items()}),
            "",
            "examples:",
            *(f"  {PROGRAM} {line}" for line in first.examples),
        ]
    )


def _indented(summaries: Mapping[str, str]) -> list[str]:
    return [f"  {line}" for line in pairs(summaries.items())]


def version() -> str:
    """Text of `descartesctl --version`."""
    from importlib.metadata import version as installed  # noqa: PLC0415  # start-up time

    return f"{PROGRAM} {installed('descartesd')}"


def exit_codes() -> str:
    """Text of `descartesctl help exit-codes`."""
    statuses = {status: [text] for status, text in _OTHER_STATUSES.items()}
    for code, error in ERRORS.items():
        statuses.setdefault(error.exit_status, []).append(code)
    lines = pairs((str(status), ", ".join(statuses[status])) for status in sorted(statuses))
    return "\n".join(
        [
            *lines,
            "",
            "Several agents: 0 when all succeeded, else the status of the first that did not.",
        ]
    )


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="a noun, or exit-codes")


def _help(args: Namespace, out: Output) -> int:
    if args.topic is None:
        out.text(overview())
        return 0
    topics: dict[str, Callable[[], str]] = {"exit-codes": exit_codes}
    topics |= {noun: partial(verbs, noun) for noun in NOUNS}
    if args.topic not in topics:
        hint = suggest(args.topic, topics, f"topics: {', '.join(topics)}")
        raise InvalidArgumentError(f"there is no topic '{args.topic}'", hint=hint)
    out.text(topics[args.topic]())
    return 0


COMMANDS = {
    "help": Command(
        summary="Explain a noun or a topic.",
        examples=("help exit-codes", "help agent"),
        run=_help,
        arguments=_arguments,
    ),
}
