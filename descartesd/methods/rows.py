"""The table of methods as the dispatcher needs it: each with its function and its numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from descartesd.errors import DeadlineExceededError, PermissionDeniedError, UnimplementedError
from descartesd.methods.call import Call, Handler, OnRefused
from descartesd.observe.metrics import MethodMetrics, RequestMetrics
from descartesd.transport.calls import not_done
from descartesd.transport.unread import WINDOW
from descartesd.wire import codec
from descartesd.wire.agent import AgentOutput
from descartesd.wire.batch import BatchRun
from descartesd.wire.methods import METHODS, Method

# Set aside for an answer that is not long in the making.
_SMALL_ANSWER = 1 << 16
# They last as long as the agent does, as its grace time, or as the action may.
_UNBOUNDED = ("agent.wait", "agent.stop", "batch.run", "action.run")
# They make an agent durable before they start it, and the beginning of their work with it.
_RECORDING = ("agent.spawn", "agent.respawn", "batch.spawn")
# What they change is done at once; they wait on for the end, which may be long in coming.
_ENDING = ("agent.stop", "agent.kill")


@dataclass(frozen=True, slots=True)
class Row:
    """One method."""

    method: Method[Any, Any]
    decode: codec.ParamsDecoder
    handler: Callable[[Call, Any], Any]
    waits: bool
    keyed: bool
    # It changes nothing but streams, whatever its params.
    only_looks: bool
    # It makes the beginning of its work durable by itself.
    records_itself: bool
    metrics: MethodMetrics

    def is_harmless(self, params: Struct) -> bool:
        """Whether it changes nothing but streams."""
        return self.only_looks or _is_a_look(params)

    def is_unrecorded(self, params: Struct) -> bool:
        """Whether the answer is not worth keeping, or the work not worth finishing for nobody."""
        return self.method.resend == "read" or self.method.name in _ENDING or _is_a_look(params)

    async def carry_out(self, call: Call, params: Struct, on_refused: OnRefused) -> Any:
        """Await what its function makes of it.

        What changes something has the line of its outcome; who may not look is told of here.
        """
        try:
            return await self.handler(call, params)
        except PermissionDeniedError as exc:
            if self.only_looks:
                on_refused(call.peer, self.method.name, exc, call.trace)
            raise

    def room(self, params: Struct) -> int:
        """The bytes to set aside before the answer is made; 0 when only its real size counts."""
        if isinstance(params, AgentOutput):
            return params.limit
        if _is_a_look(params):
            return WINDOW
        return 0 if self.waits else _SMALL_ANSWER

    def limit_s(self, deadline_s: float | None, usual_s: float) -> float | None:
        """Seconds the work may take; None without a limit."""
        if deadline_s is not None:
            return deadline_s
        return None if self.method.name in _UNBOUNDED else usual_s

    def too_late(self, deadline_s: float | None) -> DeadlineExceededError:
        """The error of who is not done in time."""
        return not_done(self.method, deadline_s)


def _is_a_look(params: Struct) -> bool:
    return isinstance(params, BatchRun) and params.changes_nothing


def rows_of(handlers: Mapping[str, Handler], metrics: RequestMetrics) -> dict[str, Row]:
    """Join every method with its function; raises ValueError when one is missing."""
    missing = METHODS.keys() - handlers.keys()
    if missing:
        raise ValueError(f"methods without a function: {', '.join(sorted(missing))}")
    return {
        name: Row(
            method=METHODS[name],
            decode=codec.ParamsDecoder(METHODS[name].request),
            handler=handler,
            waits=inspect.iscoroutinefunction(handler),
            keyed=METHODS[name].resend == "idem",
            only_looks=METHODS[name].resend == "read" or name.startswith("stream."),
            records_itself=name in _RECORDING,
            metrics=metrics.method(name),
        )
        for name, handler in handlers.items()
    }


def unknown(name: str, rows: Mapping[str, Row]) -> UnimplementedError:
    """The error of who asks for a method there is none of."""
    near = codec.nearest(name, rows)
    return UnimplementedError(
        f"this server has no method '{name}'",
        hint=f"did you mean '{near}'" if near else "see what it has: server.methods",
    )
