"""A server to measure, with room for the agents the rows start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.wire import Wire, read_keys
from tests.support.server import Server

MAX_AGENTS = 2000


class Bench(NamedTuple):
    """How thorough to be, and a directory that is deleted when everything has been measured.

    Nothing is deleted before: ext4 searches past every inode freed in the last half minute
    whenever it makes a file, so that a row would pay for the files of the one before.
    """

    is_quick: bool
    scratch: Path


class Measured(NamedTuple):
    """A running server, a connection to it, and the two processes it consists of."""

    server: Server
    wire: Wire
    daemon: int
    keeper: int
    output_dir: Path


@contextmanager
def measured(bench: Bench) -> Iterator[Measured]:
    """Run a server for the time of a block; the connection is an administrator's over tcp."""
    with Server({"server.max_agents": MAX_AGENTS}) as server:
        output_dir = Path(tempfile.mkdtemp(prefix="output-", dir=bench.scratch))
        (server.directory / "state" / "output").symlink_to(output_dir)
        server.start()
        if server.process is None:
            raise RuntimeError("the server has no process")
        with Wire(read_keys(server.admin)) as wire:
            yield Measured(server, wire, server.process.pid, wire.keeper_pid(), output_dir)
