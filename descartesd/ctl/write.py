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
        "text", metavar="TEXT", nargs="?", help="sent as it is, no newline added; '-': our stdin"
    )
    parser.add_argument("--eof", action="store_true", help="then close stdin; on a terminal, ^D")


def _write(args: Namespace, out: Output) -> int:
    if args.text is None and not args.eof:
        raise InvalidArgumentError("nothing to write: expected TEXT, '-' or --eof")
    from descartesd.wire.agent import Written  # noqa: PLC0415  # start-up time

    accepted = 0
    with connect(args) as client:
        for piece in _pieces(args.text):
            accepted += client.write(args.id, piece).accepted
        if args.eof:
            client.agent.close_stdin(id=args.id)
    out.document(Written(accepted=accepted, offset=accepted), ids=[args.id], lines=[])
    return 0


def _pieces(text: str | None) -> Iterator[bytes]:
    if text == "-":
        while piece := os.read(sys.stdin.fileno(), _CHUNK):
            yield piece
    elif text is not None:
        yield os.fsencode(text)


COMMANDS = {
    "write": Command(
        summary="Write to the stdin of an agent that was started with --stdin or --tty.",
        examples=("agent write build-7 yes --eof", "agent write build-7 - < answers.txt"),
        run=_write,
        arguments=_arguments,
    ),
}
