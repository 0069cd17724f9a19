"""The dialect of claude's and qwen's `stream-json`."""

from __future__ import annotations

from descartesd.agents.dialects.line import Line, blocks
from descartesd.agents.dialects.report import Question, Report


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one the dialect does not have."""
    if line.type in ("control_request", "control_response", "control_cancel_request"):
        return _control(line, report)
    if line.session_id is None:
        return False
    match line.type:
        case "system":
            report.in_session(line.session_id)
            _system(line, report)
        case "assistant" | "user":
            _message(line, report)
        case "stream_event":
            report.go_on()
        case "result" if line.is_error is not None:
            report.in_session(line.session_id)
            _result(line, report)
        case _:
            return False
    return True


def _message(line: Line, report: Report) -> None:
    found = blocks(line.message)
    if found is None and line.type == "user":
        # Too large to be looked into: the result of a tool, and most agents use one at a time.
        report.tools.clear()
    for block in found or ():
        if block.type == "tool_use":
            report.begin_tool(block.id)
        elif block.type == "tool_result":
            report.end_tool(block.tool_use_id)
    report.go_on()


def _system(line: Line, report: Report) -> None:
    match line.subtype, line.state:
        case "init", _:
            report.begin_turn()
        case "session_state_changed", "running":
            report.questions.clear()
            report.go_on()
        case "session_state_changed", "requires_action":
            report.activity = "waiting"
        case "session_state_changed", "idle":
            report.questions.clear()
            report.activity = "idle"
        case (("status" | "api_retry"), _):
            report.go_on()


def _control(line: Line, report: Report) -> bool:
    request = line.request
    if line.type == "control_response":
        if line.response is None or isinstance(line.response, str):
            return False
        report.answered(line.response.request_id)
    elif line.type == "control_cancel_request":
        report.answered(line.request_id)
    elif request is None or line.request_id is None:
        return False
    elif request.subtype == "can_use_tool":
        report.ask(
            Question(
                id=line.request_id,
                tool=(request.tool_name or "unknown")[:256],
                input=bytes(request.input),
                tool_use_id=request.tool_use_id,
            )
        )
    return True


def _result(line: Line, report: Report) -> None:
    # The subtype says 'success' after a refusal of the model's host, too.
    report.end_turn("failure" if line.is_error else "success")
    usage = line.usage
    if usage is not None:
        # Of this turn alone, whereas the cost is that of the whole conversation.
        report.add_tokens(
            usage.input_tokens
            + usage.output_tokens
            + usage.cache_creation_input_tokens
            + usage.cache_read_input_tokens
        )
    if line.total_cost_usd is not None:
        report.reach_cost(line.total_cost_usd)
