"""Requests to a server with a plugin that hooks none of them, against one without plugins."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.control import rates, request
from tests.bench.figures import Figure, at_least
from tests.bench.load import Plan, Side, measure
from tests.bench.server import Bench
from tests.bench.wire import Wire, read_keys
from tests.support.plugins import PluggedServer
from tests.support.server import Server, running

# As much as two runs of one and the same server differ.
_NO_DEARER = at_least(0.90)
_IDLE = """
from descartesd.api import hookimpl

@hookimpl
def daemon_started(server): ...
"""


def run(bench: Bench) -> Iterator[Figure]:
    """`agent.get`, many outstanding."""
    rounds, seconds = (3, 0.3) if bench.is_quick else (9, 1.0)
    with running() as bare, PluggedServer({"idle": _IDLE}) as plugged:
        plugged.start()
        sides = [_side(bare), _side(plugged)]
        found = measure(Plan(sides, rounds, seconds, depth=128))
        yield rates("agent.get with a plugin that hooks no request", found, _NO_DEARER)


def _side(server: Server) -> Side:
    if server.process is None:
        raise RuntimeError("the server has no process")
    keys = read_keys(server.admin)
    with Wire(keys) as wire:
        (agent_id,) = wire.spawn([{"command": ["sleep", "1d"]}])
    return Side(keys, server.process.pid, request("agent.get", id=agent_id))
