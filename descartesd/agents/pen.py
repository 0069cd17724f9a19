"""Who writes to an agent's terminal: one at a time of those who are attached to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from descartesd.agents.record import Agent
from descartesd.errors import ConflictError


@dataclass(eq=False, slots=True)
class Hand:
    """One that may hold a pen, under the token of its client.

    `is_leaving` tells whether it is about to put the pen down. `taken_by` tells who has stolen it,
    and `on_loss` is called then.
    """

    writer: str
    owner: str
    is_leaving: Callable[[], object]
    on_loss: Callable[[], object]
    taken_by: str | None = None


class Pens:
    """The pen of each agent that somebody is attached to for writing."""

    def __init__(self) -> None:
        self._hands: dict[str, Hand] = {}

    @contextlib.contextmanager
    def held(self, agent: Agent, hand: Hand, *, steal: bool) -> Iterator[None]:
        """Hold the agent's pen during the block, unless it is stolen.

        A writer takes its own pen over. Raises ConflictError when another has it and `steal` is
        not set.
        """
        other = self._hands.get(agent.id)
        if other is not None and not other.is_leaving():
            if other.writer != hand.writer and not steal:
                raise ConflictError(
                    f"agent '{agent.name}' is being written to by {other.owner}",
                    hint="look on with --watch, or take over with --steal",
                    details={"holder": other.owner},
                )
            other.taken_by = hand.owner
            other.on_loss()
        self._hands[agent.id] = hand
        try:
            yield
        finally:
            if self._hands.get(agent.id) is hand:
                del self._hands[agent.id]
