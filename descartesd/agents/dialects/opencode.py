"""The dialect of `opencode run --format json`, which has no final event but its last step's end."""

from __future__ import annotations

from descartesd.agents.dialects.line import Line, Part
from descartesd.agents.dialects.report import Report


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one the dialect does not have."""
    if line.opencode_session is None:
        return False
    report.in_session(line.opencode_session)
    match line.type:
        case "step_start":
            report.begin_turn()
        case "text":
            report.go_on()
        case "tool_use":
            # Told once the tool is done: while it works nothing is told.
            report.activity = "working"
        case "step_finish" if line.part is not None:
            _step_finish(line.part, report)
        case "error":
            report.end_turn("failure")
        case _:
            return False
    return True


def _step_finish(part: Part, report: Report) -> None:
    if part.reason == "stop":
        report.end_turn("success")
    else:
        report.go_on()
    if part.tokens is not None:
        tokens = part.tokens
        parts = tokens.input + tokens.output + tokens.reasoning
        report.add_tokens(parts if tokens.total is None else tokens.total)
    if part.cost is not None:
        report.add_cost(part.cost)
