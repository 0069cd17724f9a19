"""A plugin of descartesd: it counts how agents end, and tells it by an action and a metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

from descartesd.api import (
    Action,
    ActionContext,
    AgentInfo,
    Meta,
    Metric,
    NotFoundError,
    Sample,
    Struct,
    hookimpl,
)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings: the table `[plugins.template]`."""

    label: Annotated[
        str, Meta(description="The label whose values agents are counted by.", min_length=1)
    ] = "team"


class Ended(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of the action: one value of the label, or all of them."""

    value: str | None = None


class Plugin:
    """What the entry point `template` names; it is made once, when the server starts."""

    # The version of descartesd.api it was written for; a server that lacks it says so.
    requires_api = "1.0"
    Config = Settings

    def __init__(self, config: Settings) -> None:
        self._label = config.label
        self._ended: Counter[tuple[str, str]] = Counter()

    # A fact: called in a thread after it has happened, one after the other.
    @hookimpl
    def agent_exited(self, agent: AgentInfo) -> None:
        """Count an agent whose program has ended."""
        self._ended[agent.spec.labels.get(self._label, ""), agent.state] += 1

    # Contributions: collected once, before the server serves.
    @hookimpl
    def register_actions(self) -> Iterable[Action]:
        """Add `descartesctl action run template.ended [value=V]`."""
        yield Action(
            name="template.ended",
            summary="Tell how many agents have ended, and how.",
            run=self.ended,
            params=Ended,
            permission="observer",
            timeout_s=5,
        )

    @hookimpl
    def register_metrics(self) -> Iterable[Metric]:
        """Add the same numbers as a metric."""
        yield Metric(
            name="template_agents_ended_total",
            kind="counter",
            help="Agents whose program has ended.",
            read=self._samples,
        )

    # An action that is a plain function runs in a thread of its own, and may wait.
    def ended(self, context: ActionContext, params: Ended) -> dict[str, Any]:
        """The action: numbers by state."""
        context.log.info("template.asked", extra={"caller": context.caller})
        found: Counter[str] = Counter()
        for (value, state), count in list(self._ended.items()):
            if params.value in (None, value):
                found[state] += count
        if params.value is not None and not found:
            raise NotFoundError(
                f"no agent with the label {self._label}={params.value} has ended",
                hint="leave out value for all agents",
            )
        return dict(found)

    # A metric is read in the server's event loop: it tells what is known already.
    def _samples(self) -> list[Sample]:
        return [
            Sample(value=count, labels={"value": value, "state": state})
            for (value, state), count in list(self._ended.items())
        ]
