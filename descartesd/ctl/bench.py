"""`bench`: measures a server from outside, as its clients meet it, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.progress import Show, progress
from descartesd.ctl.values import count, size
from descartesd.errors import AbortedError, DescartesError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.ctl.bench_crew import Crew, Tally
    from descartesd.wire.agent import AgentSpec

_REQUEST_FAILED = 1
_MOST_CLIENTS = 100
_IDLE_COMMAND = ["sleep", "3600"]
# The least a server keeps of a stream.
_LEAST_OUTPUT = 65_536
_PAGE = 1000
_HEADERS = ("MEASURED", "CLIENTS", "DONE", "FAILED", "RATE", "P50", "P99")


class Part(NamedTuple):
    """One thing measured: `rate` is `unit` a second, latencies are milliseconds."""

    name: str
    clients: int
    done: int
    failed: int
    rate: float
    unit: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    error: DescartesError | None = None


def _clients(word: str) -> int:
    number = count(word)
    if not 1 <= number <= _MOST_CLIENTS:
        raise ArgumentTypeError(f"'{word}' clients: expected 1 to {_MOST_CLIENTS}")
    return number


def _arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--clients", metavar="N", type=_clients, default=4, help="clients at work; default: 4")
    add(
        "--requests",
        metavar="N",
        type=count,
        default=10_000,
        help="requests in all; default: 10000",
    )
    add("--agents", metavar="N", type=count, default=200, help="agents to start; default: 200")
    add(
        "--output", metavar="SIZE", type=size, default=64 << 20, help="output to read; default: 64M"
    )


def _bench(args: Namespace, out: Output) -> int:
    # Ended from outside it cleans up as it does after Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    mark = os.urandom(8).hex()
    with connect(args) as client:
        hello = client.server.hello()
        endpoint = client.endpoint
        try:
            with progress(wanted=not out.quiet) as show:
                parts = list(_measure(client, args, mark, show))
        finally:
            _remove_all(args, mark)
    errors = [part.error for part in parts if part.error is not None]
    out.document(
        {
            "server": {"endpoint": endpoint, "id": hello.server_id, "version": hello.version},
            "results": [_item(part) for part in parts],
            "ok": not errors,
        },
        ids=[],
        lines=text.table(_HEADERS, map(_row, parts)),
    )
    for error in errors:
        out.error(error)
    return _REQUEST_FAILED if errors else 0


def _measure(client: Client, args: Namespace, mark: str, show: Show) -> Iterator[Part]:
    if args.requests or args.agents:
        from descartesd.ctl.bench_client import Setup  # noqa: PLC0415  # start-up time
        from descartesd.ctl.bench_crew import crew  # noqa: PLC0415

        with crew(args.clients, Setup(args.profile, args.timeout, mark)) as clients:
            if args.requests:
                yield _requests(client, clients, args, mark, show)
            if args.agents:
                yield _spawns(clients, args, show)
    if args.output:
        yield _output(client, args, mark, show)


def _requests(client: Client, clients: Crew, args: Namespace, mark: str, show: Show) -> Part:
    from descartesd.ctl.bench_client import Job  # noqa: PLC0415  # start-up time

    agent = client.agent.spawn(spec=_spec(_IDLE_COMMAND, mark))
    job = Job("get", args.requests, agent.id)
    began = time.perf_counter()
    tally = clients.run(job, lambda done: show("requests", done, args.requests))
    seconds = time.perf_counter() - began
    # Its place may be the only one there is.
    client.agent.kill(id=agent.id)
    return _part("agent.get", args.clients, tally, seconds)


def _spawns(clients: Crew, args: Namespace, show: Show) -> Part:
    from descartesd.ctl.bench_client import Job  # noqa: PLC0415  # start-up time

    job = Job("spawn", args.agents)
    began = time.perf_counter()
    tally = clients.run(job, lambda done: show("agents", done, args.agents))
    return _part("agent.spawn", args.clients, tally, time.perf_counter() - began)


def _part(name: str, clients: int, tally: Tally, seconds: float) -> Part:
    latencies = sorted(tally.latencies_us)
    done = len(latencies)
    return Part(
        name=name,
        clients=clients,
        done=done,
        failed=tally.failed,
        rate=done / seconds,
        unit="requests" if name == "agent.get" else "agents",
        p50_ms=latencies[done // 2] / 1e3 if done else None,
        p99_ms=latencies[done * 99 // 100] / 1e3 if done else None,
        error=tally.error,
    )


def _output(client: Client, args: Namespace, mark: str, show: Show) -> Part:
    """From the start of an agent to the last byte of what it writes, read as it comes."""
    wanted = args.output
    began = time.perf_counter()
    agent = client.agent.spawn(
        spec=_spec(["head", "-c", str(wanted), "/dev/zero"], mark, max(wanted, _LEAST_OUTPUT))
    )
    read = 0
    chunks = client.agent.follow(id=agent.id, streams=["stdout"], deadline_s=args.timeout)
    for chunk in chunks:
        read += len(chunk.data)
        show("output", read, wanted)
    seconds = time.perf_counter() - began
    error = None if read == wanted else AbortedError(f"{read} of {wanted} bytes came back")
    return Part("agent.follow", 1, read, int(read != wanted), read / seconds, "bytes", error=error)


def _spec(command: list[str], mark: str, output_bytes: int | None = None) -> AgentSpec:
    from descartesd.ctl.bench_client import LABEL  # noqa: PLC0415  # start-up time
    from descartesd.wire.agent import AgentSpec, Limits  # noqa: PLC0415

    limits = Limits(output_bytes=output_bytes)
    return AgentSpec(command=command, labels={LABEL: mark}, limits=limits)


def _remove_all(args: Namespace, mark: str) -> None:
    """End and forget every agent of this run, over a connection nothing has happened to."""
    from descartesd.ctl.bench_client import LABEL  # noqa: PLC0415  # start-up time

    try:
        with connect(args) as client:
            while agents := client.agent.list(labels={LABEL: mark}, limit=_PAGE).agents:
                _remove(client, [agent.id for agent in agents])
    except DescartesError as error:
        message = f"agents with the label '{LABEL}={mark}' may be left: {error.message}"
        raise type(error)(message, hint=error.hint) from error


def _remove(client: Client, ids: list[str]) -> None:
    from descartesd.wire.agent import AgentRef  # noqa: PLC0415  # start-up time
    from descartesd.wire.methods import AGENT_KILL, AGENT_REMOVE  # noqa: PLC0415

    for method in (AGENT_KILL, AGENT_REMOVE):
        for result in client.pipeline((method, AgentRef(id=each)) for each in ids):
            if isinstance(result, DescartesError):
                raise result


def _item(part: Part) -> dict[str, Any]:
    item: dict[str, Any] = {
        "method": part.name,
        "clients": part.clients,
        "done": part.done,
        "failed": part.failed,
        f"{part.unit}_per_second": round(part.rate, 1),
    }
    if part.p50_ms is not None:
        item |= {"p50_ms": part.p50_ms, "p99_ms": part.p99_ms}
    return item


def _row(part: Part) -> tuple[str, ...]:
    rate = f"{part.rate / 1e6:.0f} MB/s" if part.unit == "bytes" else f"{part.rate:.0f}/s"
    latencies = ("-" if each is None else f"{each:.2f} ms" for each in (part.p50_ms, part.p99_ms))
    return (part.name, str(part.clients), str(part.done), str(part.failed), rate, *latencies)


COMMANDS = {
    "bench": Command(
        summary="Measure a server with agents of its own, which are removed; 1 if a request fails.",
        examples=("bench", "--json bench --clients 16 --output 256M"),
        run=_bench,
        arguments=_arguments,
    ),
}
