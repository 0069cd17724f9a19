"""Where a follower of events stands, so that a new stream goes on where one was cut."""

from __future__ import annotations

from collections.abc import Iterable

from descartesd.wire.event import Event, EventFollow


class EventPosition:
    """The number of the last event the consumer has been given; a gap has the last one missed."""

    __slots__ = ("_last",)

    def __init__(self, since: int) -> None:
        """The first event given is the one behind `since`."""
        self._last = since

    def request(self, waiting: Iterable[Event]) -> EventFollow:
        """The request that goes on behind the events the consumer has or is still to be given."""
        return EventFollow(since=max((event.seq for event in waiting), default=self._last))

    def is_complete(self, waiting: Iterable[Event]) -> bool:
        """Events never end."""
        del waiting
        return False

    def accept(self, event: Event) -> Event | None:
        """The event, None when it has been given before."""
        if event.seq <= self._last:
            return None
        self._last = event.seq
        return event
