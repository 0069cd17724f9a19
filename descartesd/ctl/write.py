"""`agent write`: bytes for an agent's stdin, exactly as given."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from descartesd.ctl.command import Command, add_id
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.errors import InvalidArgumentError

_CHUNK = 64 * 1024


def _arguments(parser: ArgumentParser) -> None:
    add_id(parser)
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="sent as it is, no newline added; '-': stdin"
    )
    parser.add_argument("--eof", action="store_true", help="close the agent's stdin afterwards")


def _pieces(text: str | None) -> Iterator[bytes]:
    if text == "-":
        while piece := os.read(sys.stdin.fileno(), _CHUNK):
            yield piece
    elif text is not None:
        yield os.fsencode(text)


COMMAND = Command(
    summary="Write to the stdin of an agent that was started with --stdin.",
    examples=("agent write build-7 'yes' --eof", "agent write build-7 - < answers.txt"),
    run=_write,
    arguments=_arguments,
)
