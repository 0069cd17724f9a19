"""Values of environment variables that are kept in memory alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from descartesd.agents.record import Agent
from descartesd.agents.spec import refuse_nul
from descartesd.errors import ConflictError, InvalidArgumentError
from descartesd.wire.agent import AgentSpec

NO_SECRETS: Final[Mapping[str, str]] = MappingProxyType({})


def check_given(spec: AgentSpec, given: Mapping[str, str]) -> None:
    """Refuse secrets no program can have, or that are not those the spec names.

    Raises InvalidArgumentError.
    """
    named, names = set(spec.secret_env), set(given)
    if more := sorted(names - named):
        known = f"which has {', '.join(sorted(named))}" if named else "which is empty"
        raise InvalidArgumentError(
            f"secrets: {', '.join(more)} is given and not named in spec.secret_env, {known}"
        )
    if missing := sorted(named - names):
        raise InvalidArgumentError(
            f"secrets: {', '.join(missing)} is named in spec.secret_env and not given",
            hint="give it with the request; nothing of it is stored",
        )
    for name, value in given.items():
        refuse_nul(f"secrets.{name}", value)


class Secrets:
    """The secrets agents were given, as long as this process lives."""

    def __init__(self) -> None:
        self._by_agent: dict[str, Mapping[str, str]] = {}

    def keep(self, agent_id: str, given: Mapping[str, str]) -> None:
        """Keep them for every start of an agent."""
        if given:
            self._by_agent[agent_id] = dict(given)

    def drop(self, agent_id: str) -> None:
        """Forget those of an agent."""
        self._by_agent.pop(agent_id, None)

    def of(self, agent: Agent) -> Mapping[str, str]:
        """What an agent needs for its start; raises ConflictError where that is not known here."""
        known = self._by_agent.get(agent.id, {})
        missing = sorted(set(agent.spec.secret_env) - known.keys())
        if missing:
            options = " ".join(f"--secret-env {name}" for name in missing)
            raise ConflictError(
                f"agent '{agent.name}' needs {', '.join(missing)}, which this server no longer has:"
                " it keeps secrets in memory alone",
                hint=f"give it again: descartesctl agent respawn {agent.name} {options}",
            )
        return known
