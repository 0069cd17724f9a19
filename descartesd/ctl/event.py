"""`event follow`: what happens, as it happens."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import Connection, connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count

if TYPE_CHECKING:
    from descartesd.wire.event import Event


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        metavar="SEQ",
        type=count,
        help="begin behind this event, 0: with the oldest kept; default: what happens from now on",
    )


def _follow(args: Namespace, out: Output) -> int:
    with connect(args, connection=Connection(out.note)) as client:
        for event in client.event.follow(since=args.since, deadline_s=args.timeout):
            out.item(event, id=str(event.seq), line=_line(event))
    return 0


def _line(event: Event) -> str:
    name, state = text.safe(event.name or "-"), event.state or "-"
    what = text.safe(", ".join(_what(event)))
    when = text.timestamp(event.time)
    return f"{when}  {event.kind:<16}  {name:<16}  {state:<10}  {what}".rstrip()


def _what(event: Event) -> Iterator[str]:
    if event.previous is not None:
        yield f"from {event.previous}"
    if event.outcome is not None:
        yield text.ending(event.outcome)
    if event.message is not None:
        yield event.message
    else:
        yield from _facts(event.data)


def _facts(data: Mapping[str, Any]) -> Iterator[str]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _facts(value)
        else:
            yield f"{name}={value}"


COMMANDS = {
    "follow": Command(
        summary="Print what happens, a line each, until it is interrupted.",
        examples=("event follow", "--json event follow --since 0"),
        run=_follow,
        arguments=_arguments,
    ),
}
