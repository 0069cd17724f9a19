"""`event follow`: what happens, as it happens."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count

if TYPE_CHECKING:
    from descartesd.wire.event import Event


class _Connection:
    """Tells people when the connection is lost and when it has come back."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._was_lost = False

    def changed(self, news: str, endpoint: str) -> None:
        if news == "lost":
            self._out.note(f"the connection to '{endpoint}' was lost; waiting for it")
        elif self._was_lost:
            self._out.note(f"connected to '{endpoint}' again")
        self._was_lost = news == "lost"


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        metavar="SEQ",
        type=count,
        help="begin behind this event, 0: with the oldest kept; default: what happens from now on",
    )


def _follow(args: Namespace, out: Output) -> int:
    connection = _Connection(out)
    with connect(args, on_connection=connection.changed) as client:
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
