"""`agent logs`: what an agent wrote, byte for byte."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from descartesd.ctl.command import Command, add_id
from descartesd.ctl.connect import Connection, connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count, moment

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.agent import OutputChunk, StreamName


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the agent's output has ended"
    )
    parser.add_argument("--stream", choices=("stdout", "stderr"), help="default: both")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--offset", metavar="N", type=count, help="begin at this byte")
    start.add_argument("--tail", metavar="N", type=count, help="begin with the last N lines")
    parser.add_argument(
        "--since", metavar="T", type=moment, help="what came since: a time, or an age as 10m"
    )
    parser.add_argument("--grep", metavar="RE", help="only lines this RE2 expression is found in")
    parser.add_argument("--timestamps", action="store_true", help="begin each line with its time")
    add_id(parser)


def _logs(args: Namespace, out: Output) -> int:
    streams: list[StreamName] = [args.stream] if args.stream else ["stdout", "stderr"]
    with connect(args, connection=Connection(out.note) if args.follow else None) as client:
        if args.follow:
            _print(_follow(client, args, streams), args, out)
        else:
            for stream in streams:
                _print(_read(client, args, stream), args, out)
    return 0


def _follow(client: Client, args: Namespace, streams: list[StreamName]) -> Iterable[OutputChunk]:
    from descartesd.wire.agent import FollowOffsets  # noqa: PLC0415  # start-up time

    offset = args.offset or 0
    return client.agent.follow(
        id=args.id,
        streams=streams,
        offsets=FollowOffsets(stdout=offset, stderr=offset),
        tail=args.tail,
        since=args.since,
        regex=args.grep,
        timestamps=args.timestamps,
        deadline_s=args.timeout,
    )


def _read(client: Client, args: Namespace, stream: StreamName) -> Iterator[OutputChunk]:
    ask = partial(
        client.agent.output,
        id=args.id,
        stream=stream,
        regex=args.grep,
        timestamps=args.timestamps,
    )
    chunk = ask(offset=args.offset or 0, tail=args.tail, since=args.since)
    yield chunk
    # What the agent writes meanwhile is not waited for.
    end = chunk.total
    while chunk.offset < chunk.next_offset < end:
        chunk = ask(offset=chunk.next_offset)
        yield chunk


def _print(chunks: Iterable[OutputChunk], args: Namespace, out: Output) -> None:
    from descartesd.ctl.chunks import (  # noqa: PLC0415  # start-up time
        pieces,
        whole_characters,
        with_times,
    )

    if out.json:
        chunks = whole_characters(pieces(chunks))
    elif args.timestamps:
        chunks = with_times(pieces(chunks))
    for chunk in chunks:
        out.chunk(chunk)


COMMANDS = {
    "logs": Command(
        summary="Print what an agent wrote, byte for byte, its stderr to stderr.",
        examples=(
            "agent logs -f --stream stderr --tail 20 build-7",
            "agent logs --since 10m --timestamps --grep '(?i)error' build-7",
        ),
        run=_logs,
        arguments=_arguments,
    ),
}
