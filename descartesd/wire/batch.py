"""Messages about many agents at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from descartesd.wire.agent import (
    AgentId,
    AgentInfo,
    AgentSpec,
    Argument,
    EnvName,
    LabelSelector,
    Owner,
    State,
)
from descartesd.wire.envelope import WireError

MOST_AGENTS = 10_000

Verb = Literal["get", "pause", "resume", "stop", "kill", "signal", "remove", "respawn"]


class Selector(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agents for which every given condition holds; `all` takes the place of a condition."""

    labels: LabelSelector = {}
    states: list[State] = []
    owner: Owner | None = None
    all: bool = False


class BatchRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Do one verb to agents named by id, or selected; `params` are those of agent.VERB, without id.

    Many are done at once; with `fail_fast` one after the other, and none after the first failure.
    `dry_run` only tells which agents it would be, and which of them would refuse.
    """

    verb: Verb
    ids: Annotated[list[AgentId], Meta(max_length=MOST_AGENTS)] = []
    select: Selector | None = None
    params: dict[str, Any] = {}
    fail_fast: bool = False
    dry_run: bool = False

    def __repr__(self) -> str:
        # Among the params may be secrets.
        return f"BatchRun({self.verb!r}, {len(self.ids)})"

    @property
    def changes_nothing(self) -> bool:
        """Whether this only looks."""
        return self.dry_run or self.verb == "get"


class BatchSpawn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start an agent for each spec.

    Many are started at once; with `fail_fast` one after the other, and none after the first
    failure. Each is given those of the `secrets` its spec names.
    """

    specs: Annotated[list[AgentSpec], Meta(min_length=1, max_length=MOST_AGENTS)]
    fail_fast: bool = False
    secrets: Annotated[dict[EnvName, Argument], Meta(max_length=256)] = {}

    def __repr__(self) -> str:
        return f"BatchSpawn({len(self.specs)}, {sorted(self.secrets)})"


class BatchItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one agent; `id` is the word it was asked for by, else its id.

    An agent that was not started goes by the name it should have had, or by its place: `specs[3]`.

    Where all agents together are more than one message may hold, the last ones are left out.
    """

    id: str
    ok: bool
    agent: AgentInfo | None = None
    error: WireError | None = None


class BatchResult(Struct, frozen=True, kw_only=True):
    """One item for each agent, in the order asked for, or oldest first."""

    results: list[BatchItem]
    succeeded: int
    failed: int
