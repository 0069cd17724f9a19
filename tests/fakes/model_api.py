"""A model on loopback that real coding agents can talk to: it runs what the task says, or echoes.

It knows as much of four vendors' interfaces as their programs need: Anthropic messages, OpenAI
chat completions and responses, Gemini generateContent. A task that contains `[[run: COMMAND]]` is
answered with a call of the program's shell tool, then with a text; any other with how many times
the user has spoken so far.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_RUN = re.compile(r"\[\[run: (.*?)\]\]", re.DOTALL)
_SHELLS = ("bash", "exec_command", "shell_command", "shell", "run_shell_command")
_USAGE = 100, 10


class Spoken(NamedTuple):
    """One turn of a conversation; `role` is user, tool, or anything else for the model."""

    role: str
    text: str


class Reply(NamedTuple):
    """What the model says, and the command it wants to run first."""

    text: str
    tool: str | None = None
    command: str = ""

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of the shell tool; they differ from program to program."""
        key = "cmd" if self.tool == "exec_command" else "command"
        return {key: self.command, "description": "as the task says"}


def _new(kind: str) -> str:
    # The programs take two of the same name for one.
    return f"{kind}_{uuid.uuid4().hex}"


def _texts(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part.get("text") or "" for part in parts if isinstance(part, dict))


def _anthropic(body: dict[str, Any]) -> Iterator[Spoken]:
    for message in body.get("messages", ()):
        content = message["content"]
        kinds = {part.get("type") for part in content} if isinstance(content, list) else set()
        yield Spoken("tool" if "tool_result" in kinds else message["role"], _texts(content))


def _chat(body: dict[str, Any]) -> Iterator[Spoken]:
    for message in body.get("messages", ()):
        yield Spoken(message["role"], _texts(message.get("content")))


def _responses(body: dict[str, Any]) -> Iterator[Spoken]:
    for item in body.get("input", ()):
        if item.get("type", "message") == "message":
            yield Spoken(item["role"], _texts(item["content"]))
        elif item["type"].endswith("_output"):
            yield Spoken("tool", "")


def _gemini(body: dict[str, Any]) -> Iterator[Spoken]:
    for message in body.get("contents", ()):
        parts = message.get("parts", [])
        is_result = any("functionResponse" in part for part in parts)
        yield Spoken("tool" if is_result else message.get("role", "user"), _texts(parts))


def _tools(body: dict[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or ():
        for each in tool.get("functionDeclarations", [tool]):
            yield each.get("name") or each.get("function", {}).get("name") or ""


def decide(talk: list[Spoken], tools: list[str]) -> Reply:
    """The answer to a conversation."""
    said = [number for number, turn in enumerate(talk) if _RUN.search(turn.text)]
    users = sum(turn.role == "user" for turn in talk)
    shell = next((tool for tool in tools if tool.lower() in _SHELLS), None)
    last = max((n for n, turn in enumerate(talk) if turn.role == "user"), default=0)
    if shell is not None and said and said[-1] >= last - 1:
        found = _RUN.search(talk[said[-1]].text)
        if found and not any(turn.role == "tool" for turn in talk[said[-1] :]):
            return Reply("I run it.", shell, found[1])
    return Reply(f"heard {users}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base names it
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._plain({})

    def do_GET(self) -> None:
        self._plain({"object": "list", "data": [{"id": "fake", "object": "model"}], "models": []})

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        path = self.path.partition("?")[0]
        tools = list(_tools(body))
        if path.endswith(("/count_tokens", ":countTokens")):
            self._plain({"input_tokens": _USAGE[0], "totalTokens": _USAGE[0]})
        elif path.endswith("/messages"):
            self._send(_as_anthropic(decide(list(_anthropic(body)), tools), body), named=True)
        elif path.endswith("/chat/completions"):
            self._send([*_as_chat(decide(list(_chat(body)), tools)), "[DONE]"])
        elif path.endswith("/responses"):
            self._send(_as_responses(decide(list(_responses(body)), tools)), named=True)
        elif "enerateContent" in path:
            answer = _as_gemini(decide(list(_gemini(body)), tools))
            if "stream" in path:
                self._send([answer])
            else:
                self._plain(answer)
        else:
            self._plain({})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _plain(self, answer: object) -> None:
        raw = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _send(self, events: list[Any], *, named: bool = False) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            name = f"event: {event['type']}\n" if named else ""
            self.wfile.write(f"{name}data: {text}\n\n".encode())


def _as_anthropic(reply: Reply, body: dict[str, Any]) -> list[Any]:
    usage = {"input_tokens": _USAGE[0], "output_tokens": _USAGE[1]}
    message = {
        "id": _new("msg"),
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    events: list[Any] = [{"type": "message_start", "message": message}]
    blocks = [({"type": "text", "text": ""}, {"type": "text_delta", "text": reply.text})]
    if reply.tool:
        start = {"type": "tool_use", "id": _new("toolu"), "name": reply.tool, "input": {}}
        arguments = json.dumps(reply.arguments)
        blocks.append((start, {"type": "input_json_delta", "partial_json": arguments}))
    for index, (start, delta) in enumerate(blocks):
        events += [
            {"type": "content_block_start", "index": index, "content_block": start},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    stop = {"stop_reason": "tool_use" if reply.tool else "end_turn", "stop_sequence": None}
    end = {"type": "message_delta", "delta": stop, "usage": {"output_tokens": _USAGE[1]}}
    return [*events, end, {"type": "message_stop"}]


def _as_chat(reply: Reply) -> list[Any]:
    base = {
        "id": _new("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
    }
    delta: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool:
        function = {"name": reply.tool, "arguments": json.dumps(reply.arguments)}
        call = {"index": 0, "id": _new("call"), "type": "function", "function": function}
        delta["tool_calls"] = [call]
    usage = {"prompt_tokens": _USAGE[0], "completion_tokens": _USAGE[1], "total_tokens": 110}
    finish = "tool_calls" if reply.tool else "stop"
    return [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
        {**base, "choices": [], "usage": usage},
    ]


def _as_responses(reply: Reply) -> list[Any]:
    text = {"type": "output_text", "text": reply.text, "annotations": []}
    items: list[dict[str, Any]] = [
        {
            "id": _new("msg"),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
    ]
    if reply.tool:
        arguments = json.dumps(reply.arguments)
        call = {"name": reply.tool, "call_id": _new("call"), "arguments": arguments}
        items.append({"id": _new("fc"), "type": "function_call", "status": "completed", **call})
    usage = {
        "input_tokens": _USAGE[0],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": _USAGE[1],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(_USAGE),
    }
    response = {"id": _new("resp"), "object": "response", "model": "fake", "status": "in_progress"}
    events: list[Any] = [{"type": "response.created", "response": {**response, "output": []}}]
    for index, item in enumerate(items):
        added = {"type": "response.output_item.added", "output_index": index, "item": item}
        events += [added, {**added, "type": "response.output_item.done"}]
    done = {**response, "status": "completed", "output": items, "usage": usage}
    events.append({"type": "response.completed", "response": done})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _as_gemini(reply: Reply) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": reply.text}]
    if reply.tool:
        parts.append({"functionCall": {"name": reply.tool, "args": reply.arguments}})
    content = {"role": "model", "parts": parts}
    return {
        "candidates": [{"content": content, "index": 0, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": _USAGE[0],
            "candidatesTokenCount": _USAGE[1],
            "totalTokenCount": sum(_USAGE),
        },
    }


@contextmanager
def model_api() -> Iterator[str]:
    """Serve for the time of a block; the base address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
