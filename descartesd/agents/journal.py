"""The journal: every change clients can see, as numbered events, told once they are durable."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from descartesd.agents.follow import Waker
from descartesd.agents.registry import Registry
from descartesd.wire.event import Event, EventKind

_KEPT = 100_000
_RECENT = 2048

_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """Numbers the events from 1, without holes, and keeps the last ones.

    At least `kept` of them: what is older is dropped by the hundredth part of that.
    """

    def __init__(
        self, registry: Registry, *, kept: int = _KEPT, clock: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._kept = kept
        self._expire_every = max(kept // 100, 1)
        registry.on_saved.append(self._tell)
        self._clock = clock
        # The first that is kept and the last that is durable; the latter 0 while there is none.
        self.first, self.last = registry.event_bounds()
        self._recorded = self.last
        self._untold: list[tuple[int, Raw]] = []
        self._recent: deque[tuple[int, Raw]] = deque(maxlen=_RECENT)
        self._wakers: set[Waker] = set()
        # Told of the events that have become durable, encoded, with their numbers.
        self.on_told: Callable[[Sequence[tuple[int, Raw]]], None] | None = None

    @property
    def is_followed(self) -> bool:
        """Whether anybody waits for events now."""
        return bool(self._wakers)

    def record(self, kind: EventKind, agent_id: str | None = None, **facts: Any) -> None:
        """Note that something happened; `facts` are fields of Event."""
        self._recorded += 1
        event = Event(seq=self._recorded, time=self._clock(), kind=kind, agent_id=agent_id, **facts)
        row = _encode(event)
        self._registry.put_event(event.seq, row)
        self._untold.append((event.seq, Raw(row)))
        if event.seq % self._expire_every == 0 and event.seq - self.first >= self._kept:
            self.first = event.seq - self._kept + 1
            self._registry.expire_events(self.first)
        self._registry.save_soon()

    def after(self, seq: int, limit: int) -> list[tuple[int, Raw]]:
        """The next events behind `seq`, at most `limit`, encoded, with their numbers."""
        if seq >= self.last:
            return []
        if self._recent and self._recent[0][0] <= seq + 1:
            skipped = seq + 1 - self._recent[0][0]
            return list(itertools.islice(self._recent, skipped, skipped + limit))
        rows = self._registry.events(seq, limit)
        return [(number, Raw(row)) for number, row in rows]

    @contextlib.contextmanager
    def waking(self, waker: Waker) -> Iterator[None]:
        """Wake `waker` whenever there are new events."""
        self._wakers.add(waker)
        try:
            yield
        finally:
            self._wakers.discard(waker)

    def _tell(self) -> None:
        if not self._untold:
            return
        self._recent.extend(self._untold)
        self.first = self.first or self._untold[0][0]
        self.last = self._untold[-1][0]
        told, self._untold = self._untold, []
        for waker in self._wakers:
            waker.set()
        if self.on_told is not None:
            self.on_told(told)
