"""The same verbs asked of circus, which neither encrypts nor asks who is allowed what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from tests.bench import circus
from tests.bench.circus import Caller, Circus
from tests.bench.control import median, rates, request
from tests.bench.figures import Figure, Pair, at_least, at_most, compare, not_measured
from tests.bench.load import Measure, Plan, Side, measure
from tests.bench.server import Bench, Measured, measured
from tests.bench.wire import read_keys

_ROUNDS = 5
_EACH = 20
_COMMAND = ["/bin/sleep", "1d"]
_STATUS = at_least(2.0)
_LIST = at_least(1.0)
_SPAWN = at_least(4.0)
_P99_MS = at_most(1.0)


def run(bench: Bench) -> Iterator[Figure]:
    """Start agents one by one; ask for one of them, and for all: circus tells names and states."""
    try:
        circus.install()
    except circus.NotInstalledError as exc:
        yield not_measured("against circus", str(exc))
        return
    with measured(bench) as ours, circus.running(bench.scratch) as theirs:
        with closing(Caller(theirs)) as caller:
            pairs = [_spawn(ours, caller) for _ in range(_ROUNDS)]
            notes = [f"{_EACH} a round, each asked for when the one before runs"]
            yield compare("agent.spawn against circus", "spawn/s", pairs, _SPAWN, notes=notes)
            name = caller.add(_COMMAND)
        yield from _asked(bench, ours, theirs, name)


def _spawn(ours: Measured, caller: Caller) -> Pair:
    began = time.perf_counter()
    for _ in range(_EACH):
        caller.add(_COMMAND)
    between = time.perf_counter()
    ours.wire.spawn([{"command": _COMMAND}] * _EACH, depth=1)
    return Pair(_EACH / (between - began), _EACH / (time.perf_counter() - between))


def _asked(bench: Bench, ours: Measured, theirs: Circus, name: str) -> Iterator[Figure]:
    keys = read_keys(ours.server.admin)
    page = ours.wire.call("agent.list")
    agent_id, total = page["agents"][0]["id"], page["total"]

    def sides(their_request: dict[str, object], our_request: dict[str, object]) -> list[Side]:
        return [
            Side(theirs.keys, theirs.pid, their_request, codec="json"),
            Side(keys, ours.daemon, our_request),
        ]

    rounds, seconds = (3, 0.3) if bench.is_quick else (5, 1.0)
    status = sides(circus.request("status", name=name), request("agent.get", id=agent_id))
    for clients in (1, 4):
        found = measure(Plan(status, rounds, seconds, clients=clients))
        plural = "s" if clients > 1 else ""
        yield rates(f"agent.get against circus, {clients} client{plural}", found, _STATUS)
        if clients == 1:
            yield _p99([each[1] for each in found])
    listing = sides(circus.request("status"), request("agent.list", limit=total))
    found = measure(Plan(listing, rounds, seconds))
    yield rates(f"agent.list of {total} against circus", found, _LIST)


def _p99(found: list[Measure]) -> Figure:
    return Figure("agent.get p99, 1 client", "ms", median(found, "p99_us") / 1e3, budget=_P99_MS)
