"""The states of an agent and the only ways between them: a pure table."""

from __future__ import annotations

from typing import Final

from descartesd.errors import ConflictError
from descartesd.wire.agent import State

ENDED: Final[frozenset[State]] = frozenset(("completed", "failed", "terminated", "lost"))
# The states in which the keeper holds a process for the agent.
ALIVE: Final[frozenset[State]] = frozenset(("starting", "running", "paused", "stopping"))
# Those of them after the start.
STARTED: Final[frozenset[State]] = frozenset(("running", "paused", "stopping"))
# Those in which it waits for its start.
WAITING: Final[frozenset[State]] = frozenset(("queued", "backoff"))

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    "queued": frozenset(("starting", "terminated")),
    "starting": frozenset(("running", "failed", "terminated")),
    "running": frozenset(
        ("paused", "stopping", "backoff", "completed", "failed", "terminated", "lost")
    ),
    "paused": frozenset(
        ("running", "stopping", "backoff", "completed", "failed", "terminated", "lost")
    ),
    "stopping": frozenset(("terminated", "lost")),
    "backoff": frozenset(("starting", "failed", "terminated")),
    "completed": frozenset(("queued",)),
    "failed": frozenset(("queued",)),
    "terminated": frozenset(("queued",)),
    "lost": frozenset(("queued",)),
}


def step(current: State, following: State) -> State:
    """Return the following state; raises ValueError when no arrow leads there."""
    if following not in TRANSITIONS[current]:
        raise ValueError(f"no transition from {current} to {following}")
    return following


def require(name: str, current: State, *, verb: str, allowed: tuple[State, ...]) -> None:
    """Refuse a verb the state does not allow; raises ConflictError."""
    if current in allowed:
        return
    raise ConflictError(
        f"agent '{name}' is {current}: {verb} needs {' or '.join(allowed)}",
        hint=f"see it with: descartesctl agent show {name}",
        details={"state": current, "allowed": list(allowed)},
    )
