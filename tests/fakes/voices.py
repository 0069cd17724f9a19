"""How the test double speaks: the lines each real program prints, field by field where it matters.

Standard library only: the double is a program of its own.
"""

# ruff: noqa: ARG002 - a voice need not tell all it is told
from __future__ import annotations

import json
import os
import time
import uuid
from typing import Any


class Voice:
    """What a program prints at each point of a turn; this one prints nothing."""

    # Whether the program reads its stdin to the end before it begins.
    reads_stdin = False

    def __init__(self, session: str) -> None:
        self.session = session
        # What the conversation has cost so far, for the dialects that tell a running sum.
        self.tokens = 0
        self.cost = 0.0

    def begin(self) -> None:
        """A turn begins."""

    def text(self, text: str) -> None:
        """The model has said something."""

    def tool(self, tool_id: str, command: str) -> None:
        """A tool begins."""

    def tool_done(self, tool_id: str, command: str, output: str) -> None:
        """A tool has ended."""

    def progress(self, done: float) -> None:
        """So much is done."""

    def end(self, tokens: int) -> None:
        """The turn has ended well."""

    def failed(self, why: str) -> None:
        """The turn has ended badly."""

    def spend(self, tokens: int) -> None:
        self.tokens += tokens
        self.cost += tokens / 1000


def say(**fields: Any) -> None:
    """Print one line, in one write."""
    raw(json.dumps(fields, separators=(",", ":")).encode() + b"\n")


def raw(data: bytes) -> None:
    """Print bytes as they are."""
    while data:
        data = data[os.write(1, data) :]


class Claude(Voice):
    """claude -p --output-format stream-json --verbose"""

    def _say(self, **fields: Any) -> None:
        say(**fields, session_id=self.session, uuid=str(uuid.uuid4()))

    def state(self, state: str) -> None:
        if os.environ.get("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS") == "1":
            self._say(type="system", subtype="session_state_changed", state=state)

    def begin(self) -> None:
        self.state("running")
        self._say(type="system", subtype="init", cwd=os.getcwd(), tools=["Bash"], model="fake")

    def _assistant(self, block: dict[str, Any]) -> None:
        usage = {"input_tokens": 10, "output_tokens": 1}
        self._say(type="assistant", message={"id": "msg_1", "content": [block], "usage": usage})

    def text(self, text: str) -> None:
        self._assistant({"type": "text", "text": text})

    def tool(self, tool_id: str, command: str) -> None:
        block = {"type": "tool_use", "id": tool_id, "name": "Bash", "input": {"command": command}}
        self._assistant(block)

    def tool_done(self, tool_id: str, command: str, output: str) -> None:
        block = {"type": "tool_result", "tool_use_id": tool_id, "content": output}
        self._say(type="user", message={"role": "user", "content": [block]})

    def _result(self, tokens: int, why: str, *, is_error: bool) -> None:
        self.spend(tokens)
        # The type comes late: nobody may look at the beginning of a line only.
        say(
            duration_api_ms=1,
            session_id=self.session,
            total_cost_usd=self.cost,
            usage={"input_tokens": tokens, "output_tokens": 0, "cache_read_input_tokens": 0},
            is_error=is_error,
            subtype="success",
            terminal_reason=why,
            type="result",
        )
        self.state("idle")

    def end(self, tokens: int) -> None:
        self._result(tokens, "completed", is_error=False)

    def failed(self, why: str) -> None:
        self._result(0, why, is_error=True)


class Codex(Voice):
    """codex exec --json"""

    reads_stdin = True

    def begin(self) -> None:
        say(type="thread.started", thread_id=self.session)
        say(type="turn.started")

    def text(self, text: str) -> None:
        say(type="item.completed", item={"id": "item_1", "type": "agent_message", "text": text})

    def _command(self, kind: str, tool_id: str, command: str) -> None:
        say(type=kind, item={"id": tool_id, "type": "command_execution", "command": command})

    def tool(self, tool_id: str, command: str) -> None:
        self._command("item.started", tool_id, command)

    def tool_done(self, tool_id: str, command: str, output: str) -> None:
        self._command("item.completed", tool_id, command)

    def end(self, tokens: int) -> None:
        self.spend(tokens)
        say(type="turn.completed", usage={"input_tokens": self.tokens, "output_tokens": 0})

    def failed(self, why: str) -> None:
        say(type="turn.failed", error={"message": why})


class Opencode(Voice):
    """opencode run --format json"""

    reads_stdin = True

    def _say(self, kind: str, **part: Any) -> None:
        say(type=kind, timestamp=int(time.time() * 1000), sessionID=self.session, part=part)

    def begin(self) -> None:
        self._say("step_start", type="step-start")

    def text(self, text: str) -> None:
        self._say("text", type="text", text=text)

    def tool_done(self, tool_id: str, command: str, output: str) -> None:
        state = {"status": "completed", "input": {"command": command}, "output": output}
        self._say("tool_use", type="tool", tool="bash", callID=tool_id, state=state)
        self._say("step_finish", reason="tool-calls", tokens={"total": 1}, cost=0.001)
        self.begin()

    def end(self, tokens: int) -> None:
        self._say("step_finish", reason="stop", tokens={"total": tokens}, cost=tokens / 1000)

    def failed(self, why: str) -> None:
        say(type="error", sessionID=self.session, error={"name": "APIError", "data": why})


class Gemini(Voice):
    """gemini -o stream-json"""

    def begin(self) -> None:
        say(type="init", session_id=self.session, model="fake")

    def text(self, text: str) -> None:
        say(type="message", role="assistant", content=text, delta=True)

    def tool(self, tool_id: str, command: str) -> None:
        say(type="tool_use", tool_name="run_shell_command", tool_id=tool_id, parameters={})

    def tool_done(self, tool_id: str, command: str, output: str) -> None:
        say(type="tool_result", tool_id=tool_id, status="success", output=output)

    def end(self, tokens: int) -> None:
        say(type="result", status="success", stats={"total_tokens": tokens})

    def failed(self, why: str) -> None:
        say(type="result", status="error", error={"message": why}, stats={"total_tokens": 0})


class Pi(Voice):
    """pi --mode json, and --mode rpc as a chat"""

    def begin(self) -> None:
        say(type="session", id=self.session)
        say(type="agent_start")
        say(type="turn_start")

    def _message(self, text: str, tokens: int, reason: str) -> None:
        usage = {"totalTokens": tokens, "cost": {"total": tokens / 1000}}
        message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        say(type="message_end", message={**message, "usage": usage, "stopReason": reason})

    def text(self, text: str) -> None:
        say(type="message_update", message={"role": "assistant", "content": []})

    def tool(self, tool_id: str, command: str) -> None:
        say(type="tool_execution_start", toolCallId=tool_id, toolName="bash", args={})

    def tool_done(self, tool_id: str, command: str, output: str) -> None:
        say(type="tool_execution_end", toolCallId=tool_id, result=output, isError=False)

    def end(self, tokens: int) -> None:
        self._message("done", tokens, "stop")
        say(type="agent_end", messages=[])

    def failed(self, why: str) -> None:
        self._message(why, 0, "error")
        say(type="agent_end", messages=[])


class Seed(Voice):
    """The plain dialect"""

    def _say(self, kind: str, **fields: Any) -> None:
        agent_id = os.environ.get("DESCARTES_AGENT_ID", "")
        say(type=kind, agent_id=agent_id, timestamp=time.time(), **fields)

    def begin(self) -> None:
        self._say("lifecycle", event="started")

    def text(self, text: str) -> None:
        self._say("thought_update", thought=text)

    def tool(self, tool_id: str, command: str) -> None:
        self._say("status_update", status="running")

    def progress(self, done: float) -> None:
        self._say("progress_update", progress={"percentage": done * 100})

    def end(self, tokens: int) -> None:
        self._say("lifecycle", event="completed")

    def failed(self, why: str) -> None:
        self._say("lifecycle", event="failed")


VOICES: dict[str, type[Voice]] = {
    "claude": Claude,
    "codex": Codex,
    "gemini": Gemini,
    "opencode": Opencode,
    "pi": Pi,
    "seed": Seed,
}
