"""A thousand idle agents, for the rows that need them."""

from __future__ import annotations

from tests.bench.server import Measured

SIZE = 1000
_SPEC = {"command": ["sleep", "1d"], "stdin": "null"}


def fill(ours: Measured) -> None:
    """Start them and see them run."""
    ours.wire.spawn([_SPEC] * SIZE)
    running = ours.wire.count("running")
    if running != SIZE:
        raise RuntimeError(f"{running} agents run, expected {SIZE}")
