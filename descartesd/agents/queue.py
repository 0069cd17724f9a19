"""Who waits: for a slot, in their order, or for the time of their next start."""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Callable

_Place = tuple[int, int, str]


def _nobody() -> None:
    """Until somebody gives out turns."""


def _everybody(_owner: str) -> bool:
    return True


class Queue:
    """Agents that wait for a slot: the highest priority first, then the lowest turn.

    One that is taken holds a slot until it leaves. `asked` are those of them which the keeper has
    been told to start. Whose owner may have no more is passed over, and keeps its place.
    """

    def __init__(self) -> None:
        # Called when somebody may have a turn now.
        self.on_turn: Callable[[], None] = _nobody
        self.taken: set[str] = set()
        self.taken_of: Counter[str] = Counter()
        self.asked: set[str] = set()
        # In ascending order, so that the next one is at the end.
        self._order: list[_Place] = []
        self._of_owner: dict[str, list[_Place]] = {}
        self._places: dict[str, _Place] = {}
        self._owners: dict[str, str] = {}
        self._last_turn = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._places

    def next_turn(self) -> int:
        """The turn of who comes now."""
        self._last_turn += 1
        return self._last_turn

    def join(self, agent_id: str, priority: int, turn: int, owner: str = "") -> None:
        """Have an agent wait."""
        if agent_id in self._places:
            return
        place = self._places[agent_id] = (priority, -turn, agent_id)
        bisect.insort(self._order, place)
        bisect.insort(self._of_owner.setdefault(owner, []), place)
        self._owners[agent_id] = owner
        self._last_turn = max(self._last_turn, turn)
        self.on_turn()

    def has_turn(self, has_room: Callable[[str], bool] = _everybody) -> bool:
        """Whether somebody waits whose owner has room."""
        return any(map(has_room, self._of_owner))

    def take(self, has_room: Callable[[str], bool] = _everybody) -> str:
        """Give the first one whose owner has room a slot; raises IndexError when there is none."""
        # In constant time for each owner: one may have thousands.
        heads = [places[-1] for owner, places in self._of_owner.items() if has_room(owner)]
        if not heads:
            raise IndexError("nobody waits who may have a slot")
        agent_id = max(heads)[2]
        self._drop_place(agent_id)
        self.taken.add(agent_id)
        self.taken_of[self._owners[agent_id]] += 1
        return agent_id

    def leave(self, agent_id: str) -> None:
        """Forget an agent: it waits no longer, and whatever slot it was given is not needed."""
        self._drop_place(agent_id)
        owner = self._owners.pop(agent_id, None)
        if owner is not None and agent_id in self.taken:
            self.taken_of[owner] -= 1
            if not self.taken_of[owner]:
                del self.taken_of[owner]
        self.taken.discard(agent_id)
        self.asked.discard(agent_id)

    def _drop_place(self, agent_id: str) -> None:
        place = self._places.pop(agent_id, None)
        if place is None:
            return
        owner = self._owners[agent_id]
        for places in (self._order, self._of_owner[owner]):
            del places[bisect.bisect_left(places, place)]
        if not self._of_owner[owner]:
            del self._of_owner[owner]

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
