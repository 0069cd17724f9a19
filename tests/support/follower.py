"""Follows what happens on a server in a thread of its own; and what must hold of what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from descartesd.agents.lifecycle import ENDED, step
from descartesd.client import Client
from descartesd.errors import UnavailableError
from descartesd.keys.profile import Profile
from descartesd.wire.agent import State
from descartesd.wire.event import Event, EventKind
from tests.support.eventually import eventually

# How the end of an attempt is told.
END_KINDS: dict[State, EventKind] = {
    "completed": "completed",
    "failed": "error",
    "lost": "error",
    "terminated": "terminated",
}


class Follower:
    """Collects every event behind `since`, over any number of cuts and crashes."""

    def __init__(self, profile: Profile | str, *, since: int = 0, **options: Any) -> None:
        self.events: list[Event] = []
        # How often it was connected.
        self.connections = 0
        self._since = since
        self._client = Client(
            profile, wait_for_server_s=30, on_connection=self._on_connection, **options
        )
        self._is_closing = False
        self._pool = ThreadPoolExecutor(1, "follower")
        self._following = self._pool.submit(self._follow)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_closing = True
        self._client.close()
        self._pool.shutdown()
        if kind is None:
            self._following.result()

    @property
    def last(self) -> int:
        """The number of the last event seen."""
        return self.events[-1].seq if self.events else self._since

    def until(self, seq: int, timeout: float = 10.0) -> list[Event]:
        """Wait for an event; everything seen by then."""
        eventually(lambda: self.last >= seq or self._following.done(), timeout=timeout)
        if self._following.done():
            self._following.result()
        return list(self.events)

    def _on_connection(self, news: str, _endpoint: str) -> None:
        self.connections += news == "up"

    def _follow(self) -> None:
        try:
            with self._client.event.follow(since=self._since) as stream:
                for event in stream:
                    self.events.append(event)
        except UnavailableError:
            if not self._is_closing:
                raise


def check_numbers(events: Sequence[Event], since: int = 0) -> None:
    """Each event was seen once and none is missing."""
    assert [event.seq for event in events] == list(range(since + 1, since + 1 + len(events)))


def lives(events: Sequence[Event]) -> dict[str, list[list[State]]]:
    """The states of each agent that events tell of, attempt by attempt.

    Each follows from the one before, and none but the last of an attempt is an end, or a wait for
    the next one.
    """
    found: dict[str, list[list[State]]] = {}
    for event in events:
        if event.agent_id is None or event.state is None:
            continue
        if event.previous is None:
            if event.kind == "status_changed":
                found[event.agent_id] = [[event.state]]
            continue
        attempts = found.setdefault(event.agent_id, [["starting"]])
        assert event.previous == attempts[-1][-1], event
        assert event.state == step(event.previous, event.state)
        assert event.kind == END_KINDS.get(event.state, "status_changed"), event
        if event.previous in ENDED or event.attempt == len(attempts) + 1:
            attempts.append([])
        assert event.attempt == len(attempts), event
        attempts[-1].append(event.state)
    return found
