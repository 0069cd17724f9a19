"""What a request is answered whose work a dead server left open: what there really is."""

from __future__ import annotations

from msgspec import Struct

from descartesd.agents.book import Book
from descartesd.agents.registry import Intent
from descartesd.errors import AbortedError, DescartesError
from descartesd.methods.batch import what_was_spawned
from descartesd.observe.audit_line import Entry

_STARTING = ("agent.spawn", "agent.respawn")


def outcome(intent: Intent, book: Book, max_message_bytes: int) -> Struct | DescartesError:
    """The answer under the key of this intent, from the agents as they are now."""
    if intent.method == "batch.spawn" and intent.agent_id:
        return what_was_spawned(book, intent.agent_id, max_message_bytes)
    agent = book.roster.get(intent.agent_id) if intent.agent_id else None
    # Of a further attempt that was cut short the agent is left, not started.
    is_begun = agent is not None and (agent.started_at is not None or agent.state == "queued")
    if agent is not None and is_begun and intent.method in _STARTING:
        return book.views.info(agent)
    return AbortedError(
        f"{intent.method} was cut short by a restart of the server",
        hint="look at the agent, then ask again with a new key",
    )


def line(intent: Intent, answered: Struct | DescartesError) -> Entry:
    """The line that says what became of it."""
    outcome = answered.code if isinstance(answered, DescartesError) else "ok"
    detail = "told after a restart of the server"
    # Of several the ids stand with a space between them.
    target = None if " " in (intent.agent_id or "") else intent.agent_id
    return Entry(intent.identity, intent.method, "outcome", None, target, outcome, detail=detail)
