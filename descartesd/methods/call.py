"""What a method's function is given beside its parameters, and what it may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any, Protocol

from msgspec import Raw, Struct, UnsetType

from descartesd.errors import DescartesError
from descartesd.methods.policy import Caller
from descartesd.methods.sight import check_unchanged
from descartesd.transport.server import Peer
from descartesd.transport.streams import Stream
from descartesd.wire.methods import METHODS

# The caller's own word for what a request belongs to.
Trace = str | UnsetType | None


class OnRefused(Protocol):
    """Told of each request that was not let in, and of what was ended for who is not any more."""

    def __call__(
        self, peer: Peer, method: str, error: DescartesError, trace: Trace = None, /
    ) -> None:
        """Note it."""


def nobody_asks(_peer: Peer, _method: str, _error: DescartesError, _trace: Trace = None, /) -> None:
    """Nobody wants to know."""


class Call(Struct, frozen=True):
    """One request: who asks, over which connection, when, and under which idempotency key.

    `began_ns` is the `perf_counter_ns` it came at; `identify` tells who a user id is now; `trace`
    is the caller's own word for what the request belongs to.
    """

    caller: Caller
    peer: Peer
    began_ns: int
    idem: str | None = None
    stream: Stream | None = None
    identify: Callable[[str], Caller] | None = None
    trace: Trace = None

    def about(self) -> dict[str, object]:
        """Who asks, and what for, as facts of a log line."""
        return about(self.caller.id, self.trace)


def about(identity: str, trace: Trace) -> dict[str, object]:
    """Who asks, and what for, as facts of a log line."""
    return {"identity": identity, "trace": trace} if trace else {"identity": identity}


def count_start(call: Call) -> None:
    """Count one start against the caller's quota; raises ResourceExhaustedError."""
    if call.caller.meter is not None:
        call.caller.meter.spawn(perf_counter_ns())


def check_still(call: Call, method: str) -> None:
    """Refuse to begin one more thing for who may not any more.

    Work goes on when nobody waits for its answer: without this it would go on for who has been
    revoked meanwhile. Raises UnauthenticatedError, PermissionDeniedError.
    """
    if call.identify is None:
        return
    now = call.identify(call.peer.user_id).grants
    if now is not call.caller.grants:
        check_unchanged(call.caller, now, METHODS[method])


# A function answers at once, or is a coroutine; a stream's coroutine pushes into `call.stream`.
Handler = Callable[[Call, Any], Struct | Raw] | Callable[[Call, Any], Awaitable[Struct | None]]
