"""Requests and replies: the server against a raw loop that decodes and encodes as well."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from tests.bench import reference
from tests.bench.figures import Budget, Figure, Pair, at_least, compare
from tests.bench.load import Measure, Plan, Side
from tests.bench.server import Bench, measured
from tests.bench.wire import Keys, read_keys

_BUDGETS = {1: at_least(0.60), 128: at_least(1.00)}


def run(bench: Bench) -> Iterator[Figure]:
    """`agent.get` of one agent and `server.hello`, one at a time and 128 outstanding."""
    rounds, seconds = (3, 0.3) if bench.is_quick else (5, 1.0)
    with _reference() as raw, measured(bench) as ours:
        (agent_id,) = ours.wire.spawn([{"command": ["sleep", "1d"]}])
        requests = {
            "get": {"method": "agent.get", "params": {"id": agent_id}},
            "hello": {"method": "server.hello", "params": {}},
        }
        keys = read_keys(ours.server.admin)
        for name, request in requests.items():
            side = Side(keys, ours.daemon, {"v": 1, "id": 0, **request}, delimited=False)
            for depth, budget in _BUDGETS.items():
                plan = Plan([raw, side], rounds, seconds, depth)
                yield _figure(f"control {name} x{depth}", _load(plan), budget)


@contextmanager
def _reference() -> Iterator[Side]:
    public, secret = zmq.curve_keypair()
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as directory:
        certificate = f'metadata\ncurve\n    public-key = "{public.decode()}"\n'
        Path(directory, "client.key").write_text(certificate)
        with subprocess.Popen(
            [sys.executable, "-m", "tests.bench.reference", directory], stdout=subprocess.PIPE
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


def _load(plan: Plan) -> list[list[Measure]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(plan),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: list[list[Any]] = json.loads(done.stdout)
    return [[Measure(*fields) for fields in sides] for sides in found]


def _figure(row: str, rounds: list[list[Measure]], budget: Budget) -> Figure:
    pairs = [Pair(raw.rate, ours.rate) for raw, ours in rounds]
    raw, ours = ([sides[at] for sides in rounds] for at in (0, 1))
    notes = [f"ours      {_describe(ours)}", f"reference {_describe(raw)}"]
    return compare(row, "req/s", pairs, budget, notes=notes)


def _describe(measures: list[Measure]) -> str:
    def median(name: str) -> float:
        values: list[float] = [getattr(measure, name) for measure in measures]
        return statistics.median(values)

    first = measures[0]
    return (
        f"p50 {median('p50_us'):.0f} us, p99 {median('p99_us'):.0f} us, "
        f"server CPU {median('cpu_us'):.1f} us/req, "
        f"request {first.request_bytes} B, reply {first.reply_bytes} B"
    )
