"""Messages about custom actions."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from descartesd.wire.agent import AgentId
from descartesd.wire.server import Role

_ACTION_PATTERN = r"^[a-z][a-z0-9._-]{0,62}$(?!\n)"


class ActionInfo(Struct, frozen=True, kw_only=True):
    """An action: who may run it, and the JSON Schema of its parameters."""

    name: str
    summary: str
    permission: Role
    needs_agent: bool
    timeout_s: float
    params: dict[str, Any]
    plugin: str


class ActionTable(Struct, frozen=True, kw_only=True):
    """All actions this server has."""

    actions: list[ActionInfo]


class ActionRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run an action with its own parameters, on an agent where it needs one."""

    name: Annotated[str, Meta(pattern=_ACTION_PATTERN)]
    params: dict[str, Any] = {}
    agent: AgentId | None = None


class ActionResult(Struct, frozen=True, kw_only=True):
    """What the action answered."""

    action: str
    result: Any
    agent_id: str | None = None
