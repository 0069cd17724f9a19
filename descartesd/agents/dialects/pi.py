"""The dialect of `pi --mode json` and `pi --mode rpc`."""

from __future__ import annotations

from descartesd.agents.dialects.line import Data, Line, Message
from descartesd.agents.dialects.report import Report

_BROKEN_OFF = frozenset(("error", "aborted"))


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one the dialect does not have."""
    match line.type:
        case "session" if isinstance(line.id, str):
            report.in_session(line.id)
        case "response" if line.command is not None:
            if isinstance(line.data, Data):
                report.in_session(line.data.session_id)
        case "agent_start" | "turn_start":
            report.begin_turn()
        case "message_end" if isinstance(line.message, Message):
            _message(line.message, report)
        case "agent_end":
            report.end_turn(report.verdict or "success")
        case _:
            return _is_step(line, report)
    return True


def _is_step(line: Line, report: Report) -> bool:
    match line.type:
        case "tool_execution_start":
            report.begin_tool(line.tool_call_id)
        case "tool_execution_end":
            report.end_tool(line.tool_call_id)
        case "message_start" | "message_update" | "tool_execution_update" | "turn_end":
            report.go_on()
        case _:
            return False
    return True


def _message(message: Message, report: Report) -> None:
    report.go_on()
    if message.role != "assistant":
        return
    if message.stop_reason in _BROKEN_OFF:
        report.verdict = "failure"
    if message.usage is not None:
        report.add_tokens(message.usage.total_tokens)
        if message.usage.cost is not None and message.usage.cost.total is not None:
            report.add_cost(message.usage.cost.total)
