"""The dialect of `codex exec --json`."""

from __future__ import annotations

from descartesd.agents.dialects.line import Item, Line
from descartesd.agents.dialects.report import Report

# Items that are no tools: text, and warnings.
_WORDS = frozenset(("agent_message", "reasoning", "error", "todo_list"))


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one the dialect does not have."""
    match line.type:
        case "thread.started":
            report.has_final = True
            report.in_session(line.thread_id)
        case "turn.started":
            report.begin_turn()
        case "item.started" | "item.updated" | "item.completed" if line.item is not None:
            _item(line.type, line.item, report)
        case "turn.completed":
            report.end_turn("success")
            if line.usage is not None:
                # Of the whole thread, what was cached and what was reasoned included.
                report.reach_tokens(line.usage.input_tokens + line.usage.output_tokens)
        case "turn.failed":
            report.end_turn("failure")
        case "error":
            # A try that failed, and a further one follows.
            return isinstance(line.message, str)
        case _:
            return False
    return True


def _item(kind: str, item: Item, report: Report) -> None:
    if item.type == "agent_message":
        # An end of a tool may be missing: the model speaks once they are all done.
        report.tools.clear()
        report.go_on()
    elif item.type not in _WORDS and kind == "item.started":
        report.begin_tool(item.id)
    elif kind == "item.completed" and item.id in report.tools:
        report.end_tool(item.id)
