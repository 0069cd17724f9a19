"""Requests and replies: the server against a raw loop that decodes and encodes as well."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import zmq

from tests.bench import reference
from tests.bench.figures import Budget, Figure, Pair, at_least, compare
from tests.bench.load import Measure, Plan, Side, measure
from tests.bench.server import Bench, measured
from tests.bench.wire import Keys, read_keys

_ONE_CLIENT = {1: at_least(0.60), 16: None, 128: at_least(1.00)}
_CLIENTS = (8, 100)
_SATURATED = 0.9


def run(bench: Bench) -> Iterator[Figure]:
    """`agent.get` at every depth and number of clients, `server.hello` where a budget is set."""
    rounds, seconds = (3, 0.3) if bench.is_quick else (5, 1.0)
    with _reference() as raw, measured(bench) as ours:
        (agent_id,) = ours.wire.spawn([{"command": ["sleep", "1d"]}])
        keys = read_keys(ours.server.admin)
        get = Side(keys, ours.daemon, request("agent.get", id=agent_id))
        hello = Side(keys, ours.daemon, request("server.hello"))
        for depth, budget in _ONE_CLIENT.items():
            found = measure(Plan([raw, get], rounds, seconds, depth=depth))
            yield rates(f"agent.get, {depth} outstanding", found, budget)
        for clients in _CLIENTS:
            found = measure(Plan([raw, get], rounds, seconds, clients=clients))
            yield rates(f"agent.get, {clients} clients", found, None)
        for depth, budget in _ONE_CLIENT.items():
            if budget is not None:
                found = measure(Plan([raw, hello], rounds, seconds, depth=depth))
                yield rates(f"server.hello, {depth} outstanding", found, budget)


def request(method: str, **params: object) -> dict[str, object]:
    """What a Side asks of a server of ours."""
    return {"v": 1, "id": 0, "method": method, "params": params}


def rates(row: str, rounds: list[list[Measure]], budget: Budget | None) -> Figure:
    """Compare the rates of two sides, the reference first."""
    pairs = [Pair(reference.rate, ours.rate) for reference, ours in rounds]
    reference, ours = ([sides[at] for sides in rounds] for at in (0, 1))
    notes = [f"ours      {_describe(ours)}", f"reference {_describe(reference)}"]
    return replace(
        compare(row, "req/s", pairs, budget, notes=notes),
        detail=_latency(ours),
        reference_detail=_latency(reference),
    )


def median(measures: list[Measure], name: str) -> float:
    """Median of a field over the rounds."""
    values: list[float] = [getattr(measure, name) for measure in measures]
    return statistics.median(values)


@contextmanager
def _reference() -> Iterator[Side]:
    public, secret = zmq.curve_keypair()
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as directory:
        certificate = f'metadata\ncurve\n    public-key = "{public.decode()}"\n'
        Path(directory, "client.key").write_text(certificate)
        with subprocess.Popen(
            [sys.executable, "-m", "tests.bench.reference", directory],
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                facts = json.loads(_first_line(process))
                keys = Keys(
                    facts["endpoint"], facts["server_key"], public.decode(), secret.decode()
                )
                yield Side(keys, process.pid, dict(reference.REQUEST), delimited=True)
            finally:
                process.kill()


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    if process.stdout is None:
        raise RuntimeError("the reference has no output")
    return process.stdout.readline()


def _latency(measures: list[Measure]) -> str:
    p50, p99 = (median(measures, name) / 1e3 for name in ("p50_us", "p99_us"))
    return f"p50 {p50:.2f}, p99 {p99:.2f} ms"


def _describe(measures: list[Measure]) -> str:
    first = measures[0]
    server, client = median(measures, "server_busy"), median(measures, "client_busy")
    text = (
        f"p50 {median(measures, 'p50_us'):.0f} us, p99 {median(measures, 'p99_us'):.0f} us, "
        f"server CPU {median(measures, 'cpu_us'):.1f} us/req, its thread {server:.0%} busy, "
        f"the client's {client:.0%}, request {first.request_bytes} B, reply {first.reply_bytes} B"
    )
    return f"{text}: the client is the limit" if client > max(server, _SATURATED) else text
