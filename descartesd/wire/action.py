"""Messages about custom actions."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from descartesd.wire.agent import AgentId, Name
from descartesd.wire.server import Role


class ActionInfo(Struct, frozen=True, kw_only=True):
    """An action: who may run it, the JSON Schema of its parameters, and whose it is."""

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
    """Run an action with parameters as its schema says, on an agent where it needs one."""

    name: Name
    params: dict[str, Any] = {}
    agent: AgentId | None = None

    def __repr__(self) -> str:
        return f"ActionRun({self.name!r}, {sorted(self.params)})"


class ActionResult(Struct, frozen=True, kw_only=True):
    """What the action answered, and the agent where one was named."""

    action: str
    result: Any
    agent_id: str | None = None


class ActionItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an action is: so much of `total`, or of nobody knows how much; last its result."""

    done: float | None = None
    total: float | None = None
    text: str | None = None
    result: ActionResult | None = None

    def __repr__(self) -> str:
        return f"ActionItem(done={self.done!r}, total={self.total!r})"
