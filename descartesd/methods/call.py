"""What a method's function is given beside its parameters, and what it may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from descartesd.methods.policy import Caller
from descartesd.transport.server import Peer
from descartesd.transport.streams import Stream


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks, over which connection, under which idempotency key."""

    caller: Caller
    peer: Peer
    idem: str | None = None
    stream: Stream | None = None


# A function answers at once, or is a coroutine; a stream's coroutine pushes into `call.stream`.
Handler = Callable[[Call, Any], Struct] | Callable[[Call, Any], Awaitable[Struct | None]]
