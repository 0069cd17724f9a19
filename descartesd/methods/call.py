"""What a method's function is given beside its parameters, and what it may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any, NamedTuple

from msgspec import Raw, Struct

from descartesd.methods.policy import Caller
from descartesd.transport.server import Peer
from descartesd.transport.streams import Stream


class Call(NamedTuple):
    """One request: who asks, over which connection, when, and under which idempotency key.

    `began_ns` is the `perf_counter_ns` it came at.
    """

    caller: Caller
    peer: Peer
    began_ns: int
    idem: str | None = None
    stream: Stream | None = None


def count_start(call: Call) -> None:
    """Count one start against the caller's quota; raises ResourceExhaustedError."""
    if call.caller.meter is not None:
        call.caller.meter.spawn(perf_counter_ns())


# A function answers at once, or is a coroutine; a stream's coroutine pushes into `call.stream`.
Handler = Callable[[Call, Any], Struct | Raw] | Callable[[Call, Any], Awaitable[Struct | None]]
