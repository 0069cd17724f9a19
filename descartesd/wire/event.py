"""Messages about what has happened."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from descartesd.wire.agent import Outcome, State

# The first six are about an agent's present state; a heartbeat comes while somebody follows.
EventKind = Literal[
    "status_changed",
    "output_available",
    "error",
    "completed",
    "terminated",
    "heartbeat",
    "adopted",
    "removed",
    "server_started",
    "server_stopping",
    "health_changed",
    "keeper_upgraded",
    "activity",
    "progress",
    "question",
    "budget_spent",
    "plugin_benched",
    "plugin_restored",
    "gap",
]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened. `seq` counts the events of a server, from 1 and without holes.

    A `gap` stands for events the server no longer has: `data.missed` of them, the last one `seq`.
    """

    seq: int
    time: float
    kind: EventKind
    agent_id: str | None
    owner: str | None = None
    name: str | None = None
    state: State | None = None
    previous: State | None = None
    attempt: int | None = None
    outcome: Outcome | None = None
    message: str | None = None
    data: dict[str, Any] = {}


class EventFollow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stream events, first those after `since` that are kept; without it only new ones."""

    since: Annotated[int, Meta(ge=0)] | None = None
