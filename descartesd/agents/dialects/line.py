"""One line of JSON with the fields of all dialects; what none of them needs is never built."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct, field


class Anything(Struct, frozen=True):
    """An object none of whose fields matters."""


class Block(Struct, frozen=True):
    """A piece of a message's content."""

    type: str | None = None
    id: str | None = None
    tool_use_id: str | None = None


class Cost(Struct, frozen=True):
    """What a message has cost, in US dollars."""

    total: float | None = None


class Usage(Struct, frozen=True):
    """Tokens, as each dialect counts them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    total_tokens: int = field(default=0, name="totalTokens")
    cost: Cost | None = None


class Message(Struct, frozen=True):
    """What was said to a model or by it."""

    role: str | None = None
    content: Raw = Raw(b"")
    usage: Usage | None = None
    stop_reason: str | None = field(default=None, name="stopReason")


class Request(Struct, frozen=True):
    """What an agent asks whoever started it."""

    subtype: str | None = None
    tool_name: str | None = None
    tool_use_id: str | None = None
    input: Raw = Raw(b"{}")


class Response(Struct, frozen=True):
    """The answer to a request of either side."""

    request_id: str | None = None


class Item(Struct, frozen=True):
    """A step of a turn."""

    type: str | None = None
    id: str | None = None


class Tokens(Struct, frozen=True):
    """Tokens of one step."""

    total: int | None = None
    input: int = 0
    output: int = 0
    reasoning: int = 0


class Part(Struct, frozen=True):
    """A part of a message, or the end of a step."""

    reason: str | None = None
    tokens: Tokens | None = None
    cost: float | None = None


class Stats(Struct, frozen=True):
    """The sums of a run."""

    total_tokens: int = 0


class Data(Struct, frozen=True):
    """What a command was answered with."""

    session_id: str | None = field(default=None, name="sessionId")


class Progress(Struct, frozen=True):
    """How far an agent is."""

    percentage: float | None = None
    current_step: int | None = None
    total_steps: int | None = None


class Line(Struct, frozen=True):
    """An event. A field of another type than any dialect has makes the line none."""

    type: str | None = None
    subtype: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    thread_id: str | None = None
    opencode_session: str | None = field(default=None, name="sessionID")
    id: str | int | None = None
    state: str | None = None
    status: str | None = None
    event: str | Anything | None = None
    progress: float | Progress | None = None
    role: str | None = None
    message: Message | str | None = None
    is_error: bool | None = None
    total_cost_usd: float | None = None
    usage: Usage | None = None
    request_id: str | None = None
    request: Request | None = None
    response: Response | str | None = None
    item: Item | None = None
    part: Part | None = None
    stats: Stats | None = None
    tool_name: str | None = None
    tool_id: str | None = None
    tool_call_id: str | None = field(default=None, name="toolCallId")
    command: str | None = None
    data: Data | str | None = None


_decode = msgspec.json.Decoder(Line).decode
_decode_blocks = msgspec.json.Decoder(list[Block]).decode
# A million empty blocks would take the event loop a fifth of a second.
_CONTENT_MAX = 1 << 20


def decode(line: bytes) -> Line | None:
    """Read one line; None when it is no JSON object, or one no dialect could have printed."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def blocks(message: Message | str | None) -> list[Block] | None:
    """The pieces of a message; none of one that is plain text, None of one over 1 MiB."""
    if not isinstance(message, Message):
        return []
    if len(message.content) > _CONTENT_MAX:
        return None
    try:
        return _decode_blocks(message.content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
