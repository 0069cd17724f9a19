"""The dialect of `gemini -o stream-json`."""

from __future__ import annotations

from descartesd.agents.dialects.line import Line
from descartesd.agents.dialects.report import Report


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one the dialect does not have."""
    match line.type:
        case "init" if line.session_id is not None:
            report.in_session(line.session_id)
            report.begin_turn()
        case "message" if line.role is not None:
            report.go_on()
        case "tool_use" if line.tool_name is not None:
            report.begin_tool(line.tool_id)
        case "tool_result" if line.tool_id is not None:
            report.end_tool(line.tool_id)
        case "result" if line.status is not None:
            report.end_turn("success" if line.status == "success" else "failure")
            if line.stats is not None:
                report.add_tokens(line.stats.total_tokens)
        case "error":
            return isinstance(line.message, str)
        case _:
            return False
    return True
