"""Finds agents: by id, by name, by prefix, or all of them in order of age."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator

from descartesd.agents.lifecycle import ALIVE
from descartesd.agents.record import Agent
from descartesd.errors import InvalidArgumentError, NotFoundError

_PREFIX_MIN = 4


class Roster:
    """Every agent, indexed; `names` is for looking only."""

    def __init__(self) -> None:
        self.names: dict[str, Agent] = {}
        self._by_id: dict[str, Agent] = {}
        self._ids: list[str] = []

    def __iter__(self) -> Iterator[Agent]:
        """Oldest first."""
        return map(self._by_id.__getitem__, self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, agent: Agent) -> None:
        """Take in an agent whose id and name are free."""
        self._by_id[agent.id] = agent
        self.names[agent.name] = agent
        bisect.insort(self._ids, agent.id)

    def drop(self, agent: Agent) -> bool:
        """Let an agent go; False when it had gone already."""
        if self._by_id.pop(agent.id, None) is None:
            return False
        del self.names[agent.name]
        del self._ids[bisect.bisect_left(self._ids, agent.id)]
        return True

    def get(self, agent_id: str) -> Agent | None:
        """Find by full id."""
        return self._by_id.get(agent_id)

    def resolve(self, reference: str, *, seen: Callable[[Agent], bool] | None = None) -> Agent:
        """Find by name, id, or unambiguous prefix of an id; only among those `seen`, if given.

        Raises NotFoundError, or InvalidArgumentError when the prefix fits several.
        """
        for agent in (self.names.get(reference), self._by_id.get(reference)):
            if agent is not None and (seen is None or seen(agent)):
                return agent
        matches = self._with_prefix(reference) if len(reference) >= _PREFIX_MIN else []
        if seen is not None:
            matches = [match for match in matches if seen(self._by_id[match])]
        if len(matches) == 1:
            return self._by_id[matches[0]]
        if matches:
            raise InvalidArgumentError(
                f"'{reference}' is ambiguous: {len(matches)} agents have ids that begin with it",
                hint="give more characters, or a name: "
                + ", ".join(self._by_id[match].name for match in matches[:3]),
            )
        raise NotFoundError(
            f"no agent '{reference}'", hint="see what there is with: descartesctl agent list"
        )

    def _with_prefix(self, prefix: str) -> list[str]:
        first = bisect.bisect_left(self._ids, prefix)
        last = bisect.bisect_left(self._ids, prefix + "~")
        return self._ids[first:last]

    def counts(self, owner: str | None = None) -> dict[str, int]:
        """How many agents, or agents of one owner, are in each state that occurs."""
        found: dict[str, int] = {}
        for agent in self:
            if owner is None or agent.owner == owner:
                found[agent.state] = found.get(agent.state, 0) + 1
        return found

    def longest_grace_s(self) -> float:
        """The longest an orderly stop of every agent may take."""
        alive = (agent.spec.stop.grace_s for agent in self if agent.state in ALIVE)
        return max(alive, default=0.0)
