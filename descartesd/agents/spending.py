"""What agents have said they spend, summed up over all there have been since the server started."""

from __future__ import annotations

from descartesd.agents.book import Book
from descartesd.agents.record import Agent


class Spending:
    """Sums that never fall: what a removed agent has spent stays in them."""

    def __init__(self, book: Book) -> None:
        """Begin to count: what has been spent before is not in the sums."""
        self.tokens = 0
        self.cost_usd = 0.0
        self._book = book
        # By id: what of an agent's sums has been counted.
        self._counted: dict[str, tuple[int, float]] = {}
        for agent in book.roster:
            if agent.report is not None:
                self._counted[agent.id] = _spent(agent)
        book.on_change.append(self.note)

    def note(self, agent: Agent) -> None:
        """Add what an agent has spent since this was called last."""
        if agent.report is None:
            return
        tokens, cost_usd = _spent(agent)
        counted_tokens, counted_cost = self._counted.get(agent.id, (0, 0.0))
        self.tokens += max(tokens - counted_tokens, 0)
        self.cost_usd += max(cost_usd - counted_cost, 0.0)
        if self._book.roster.get(agent.id) is agent:
            self._counted[agent.id] = tokens, cost_usd
        else:
            self._counted.pop(agent.id, None)


def _spent(agent: Agent) -> tuple[int, float]:
    said = agent.report
    return (0, 0.0) if said is None else (said.tokens or 0, said.cost_usd or 0.0)
