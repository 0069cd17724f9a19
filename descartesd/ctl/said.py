"""What agents say of themselves, as columns and lines for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from descartesd.wire.agent import AgentInfo

_TITLE_WIDTH = 40
_NONE = "-"

Cell = Callable[["AgentInfo"], str]


def columns(agents: Sequence[AgentInfo]) -> Mapping[str, Cell]:
    """The columns in which any of the agents has something to show, by their headers."""
    return {
        header: cell
        for header, cell in _COLUMNS.items()
        if any(cell(agent) != _NONE for agent in agents)
    }


def details(agent: AgentInfo) -> list[tuple[str, str]]:
    """What `agent show` tells, '-' where nothing is known."""
    return [
        ("activity", _activity(agent)),
        ("question", _question(agent)),
        ("question id", _NONE if agent.question is None else agent.question.id),
        ("progress", _progress(agent)),
        ("session", agent.session_id or _NONE),
        ("tokens", _tokens(agent)),
        ("cost", _cost(agent)),
        ("title", agent.title or _NONE),
        ("events", _events(agent)),
    ]


def _activity(agent: AgentInfo) -> str:
    return _NONE if agent.activity == "unknown" else agent.activity


def _question(agent: AgentInfo) -> str:
    asked = agent.question
    return _NONE if asked is None else f"{asked.tool} {asked.input}"


def _progress(agent: AgentInfo) -> str:
    return _NONE if agent.progress is None else f"{agent.progress:.0%}"


def _tokens(agent: AgentInfo) -> str:
    return _NONE if agent.tokens is None else str(agent.tokens)


def _cost(agent: AgentInfo) -> str:
    cost = agent.cost_usd
    if cost is None:
        return _NONE
    return f"${cost:.2f}" if cost >= 1 else f"${cost:.4f}"


def _title(agent: AgentInfo) -> str:
    title = agent.title or _NONE
    return title if len(title) <= _TITLE_WIDTH else f"{title[: _TITLE_WIDTH - 1]}…"


def _events(agent: AgentInfo) -> str:
    lines = agent.event_lines
    counts = {
        "read": lines.read,
        "ignored": lines.ignored,
        "of another agent": lines.foreign,
        "too long": lines.too_long,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or _NONE


_COLUMNS: Mapping[str, Cell] = {
    "ACTIVITY": _activity,
    "PROGRESS": _progress,
    "TOKENS": _tokens,
    "COST": _cost,
    "TITLE": _title,
}
