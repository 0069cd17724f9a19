"""`agent logs`: what an agent wrote, byte for byte."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from descartesd.ctl.command import Command, add_id
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.agent import StreamName


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the agent's output has ended"
    )
    parser.add_argument("--stream", choices=("stdout", "stderr"), help="default: both")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--offset", metavar="N", type=count, help="begin at this byte")
    start.add_argument("--tail", metavar="N", type=count, help="begin with the last N lines")
    add_id(parser)


def _logs(args: Namespace, out: Output) -> int:
    streams: list[StreamName] = [args.stream] if args.stream else ["stdout", "stderr"]
    with connect(args) as client:
        if args.follow:
            _follow(client, args, streams, out)
        else:
            for stream in streams:
                _read(client, args, stream, out)
    return 0


def _follow(client: Client, args: Namespace, streams: list[StreamName], out: Output) -> None:
    from descartesd.wire.agent import FollowOffsets  # noqa: PLC0415  # start-up time

    offset = args.offset or 0
    offsets = FollowOffsets(stdout=offset, stderr=offset)
    chunks = client.agent.follow(
        id=args.id,
        streams=streams,
        offsets=offsets,
        tail=args.tail,
        deadline_s=args.timeout,
    )
    for chunk in chunks:
        out.chunk(chunk)


def _read(client: Client, args: Namespace, stream: StreamName, out: Output) -> None:
    chunk = client.agent.output(id=args.id, stream=stream, offset=args.offset or 0, tail=args.tail)
    out.chunk(chunk)
    # What the agent writes meanwhile is not waited for.
    end = chunk.total
    while chunk.data and chunk.next_offset < end:
        chunk = client.agent.output(id=args.id, stream=stream, offset=chunk.next_offset)
        out.chunk(chunk)


COMMANDS = {
    "logs": Command(
        summary="Print what an agent wrote, byte for byte, its stderr to stderr.",
        examples=("agent logs -f build-7", "agent logs --stream stderr --tail 20 build-7"),
        run=_logs,
        arguments=_arguments,
    ),
}
