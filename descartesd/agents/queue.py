"""Who waits: for a slot, in their order, or for the time of their next start."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable


def _nobody() -> None:
    """Until somebody gives out turns."""


class Queue:
    """Agents that wait for a slot: the highest priority first, then the lowest turn.

    One that is taken holds a slot until it leaves. `asked` are those of them which the keeper has
    been told to start.
    """

    def __init__(self) -> None:
        # Called when somebody may have a turn now.
        self.on_turn: Callable[[], None] = _nobody
        self.taken: set[str] = set()
        self.asked: set[str] = set()
        # In ascending order, so that the next one is at the end.
        self._order: list[tuple[int, int, str]] = []
        self._places: dict[str, tuple[int, int, str]] = {}
        self._last_turn = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._places

    def next_turn(self) -> int:
        """The turn of who comes now."""
        self._last_turn += 1
        return self._last_turn

    def join(self, agent_id: str, priority: int, turn: int) -> None:
        """Have an agent wait."""
        if agent_id in self._places:
            return
        place = self._places[agent_id] = (priority, -turn, agent_id)
        bisect.insort(self._order, place)
        self._last_turn = max(self._last_turn, turn)
        self.on_turn()

    def take(self) -> str:
        """Give the first one a slot; raises IndexError when nobody waits."""
        agent_id = self._order.pop()[2]
        del self._places[agent_id]
        self.taken.add(agent_id)
        return agent_id

    def leave(self, agent_id: str) -> None:
        """Forget an agent: it waits no longer, and whatever slot it was given is not needed."""
        place = self._places.pop(agent_id, None)
        if place is not None:
            del self._order[bisect.bisect_left(self._order, place)]
        self.taken.discard(agent_id)
        self.asked.discard(agent_id)

    def position(self, agent_id: str) -> int | None:
        """The place of an agent, counted from 1; None when it does not wait."""
        place = self._places.get(agent_id)
        if place is None:
            return None
        return len(self._order) - bisect.bisect_left(self._order, place)


class Timetable:
    """Agents that wait for a time; times are seconds of any one clock."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        # Also has entries that hold no longer: those which `_due` does not have.
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def add(self, agent_id: str, due: float) -> None:
        """Have an agent wait until `due`."""
        self._due[agent_id] = due
        heapq.heappush(self._heap, (due, agent_id))

    def discard(self, agent_id: str) -> None:
        """Forget an agent."""
        self._due.pop(agent_id, None)

    def next_due(self) -> float | None:
        """When the next one is due; None when nobody waits."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[str]:
        """Those whose time has come, the earliest first; they wait no longer."""
        found = []
        while (due := self.next_due()) is not None and due <= now:
            agent_id = heapq.heappop(self._heap)[1]
            del self._due[agent_id]
            found.append(agent_id)
        return found
