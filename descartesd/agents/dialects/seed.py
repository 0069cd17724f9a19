"""The plain dialect: status, thought, progress, output, error, lifecycle, heartbeat."""

from __future__ import annotations

from descartesd.agents.dialects.line import Line, Progress
from descartesd.agents.dialects.report import Report
from descartesd.wire.agent import Activity

_KINDS = frozenset(("status_update", "thought_update", "progress_update", "lifecycle"))
# Other dialects use these words too: here they come with the agent's id.
_COMMON_KINDS = frozenset(("output", "error", "heartbeat"))
_ACTIVITIES: dict[str, Activity] = {
    "idle": "idle",
    "initializing": "initializing",
    "running": "working",
    "thinking": "thinking",
    "waiting": "waiting",
}


def has(line: Line) -> bool:
    """Whether a line is of this dialect."""
    return line.type in _KINDS or (line.type in _COMMON_KINDS and line.agent_id is not None)


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one the dialect does not have."""
    if not has(line):
        return False
    match line.type:
        case "status_update":
            report.activity = _ACTIVITIES.get(line.status or "", report.activity)
        case "thought_update":
            report.activity = "thinking"
        case "progress_update":
            report.progress = _fraction(line.progress, report.progress)
        case "lifecycle":
            _lifecycle(line.event, report)
    return True


def _lifecycle(event: object, report: Report) -> None:
    # An agent that tells of its life tells of its end too.
    report.has_final = True
    match event:
        case "completed":
            report.end_turn("success")
        case "failed" | "terminated":
            report.end_turn("failure")
        case "started":
            report.begin_turn()


def _fraction(told: float | Progress | None, known: float | None) -> float | None:
    """How much is done: told from 0 to 1, in percent, or as a step of several."""
    value = told
    if isinstance(told, Progress):
        value = None if told.percentage is None else told.percentage / 100
        if value is None and told.current_step is not None and told.total_steps:
            value = told.current_step / told.total_steps
    return value if isinstance(value, float | int) and 0 <= value <= 1 else known
