"""A server to measure, with room for the agents the rows start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.bench.wire import Wire, read_keys
from tests.support.server import Server

MAX_AGENTS = 2000


class Measured(NamedTuple):
    """A running server, a connection to it, and the two processes it consists of."""

    server: Server
    wire: Wire
    daemon: int
    keeper: int


@contextmanager
def measured() -> Iterator[Measured]:
    """Run a server for the time of a block; the connection is an administrator's over tcp."""
    with Server({"server.max_agents": MAX_AGENTS}) as server:
        server.start()
        if server.process is None:
            raise RuntimeError("the server has no process")
        with Wire(read_keys(server.admin)) as wire:
            yield Measured(server, wire, server.process.pid, wire.keeper_pid())
