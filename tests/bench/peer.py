"""The same verbs asked of circus, which neither encrypts nor asks who is allowed what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from tests.bench import circus
from tests.bench.circus import Caller, Circus
from tests.bench.control import rates, request
from tests.bench.figures import Figure, Pair, at_least, compare, not_measured
from tests.bench.load import Plan, Side, measure
from tests.bench.server import Bench, Measured, measured
from tests.bench.wire import read_keys

_ROUNDS = 5
_EACH = 20
_AT_ONCE = 16
_COMMAND = ["/bin/sleep", "1d"]
_STATUS = at_least(2.0)
_LIST = at_least(1.0)
_SPAWN = at_least(4.0)


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
            notes = [f"{_EACH} a round, as each takes them: circus one, ours {_AT_ONCE} at once"]
            yield compare("agent.spawn against circus", "spawn/s", pairs, _SPAWN, notes=notes)
            name = caller.add(_COMMAND)
        yield from _asked(bench, ours, theirs, name)


def _spawn(ours: Measured, caller: Caller) -> Pair:
    began = time.perf_counter()
    for _ in range(_EACH):
        caller.add(_COMMAND)
    between = time.perf_counter()
    ours.wire.spawn([{"command": _COMMAND}] * _EACH, depth=_AT_ONCE)
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
    # One at a time it is the waking of idle cores that is measured: row by row, but no budget.
    for depth, budget in ((1, None), (16, _STATUS), (128, _STATUS)):
        found = measure(Plan(status, rounds, seconds, depth=depth))
        yield rates(f"agent.get against circus, {depth} outstanding", found, budget)
    for clients in (8, 100):
        found = measure(Plan(status, rounds, seconds, clients=clients))
        yield rates(f"agent.get against circus, {clients} clients", found, _STATUS)
    listing = sides(circus.request("status"), request("agent.list", limit=total))
    found = measure(Plan(listing, rounds, seconds))
    yield rates(f"agent.list of {total} against circus", found, _LIST)
