"""What a client has under way: single calls, and streams that outlive a lost connection."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Raw

from descartesd.errors import DeadlineExceededError, DescartesError, UnavailableError
from descartesd.transport.follow import FollowPosition
from descartesd.wire import codec
from descartesd.wire.agent import AgentFollow, OutputChunk
from descartesd.wire.envelope import (
    DEFAULT_CREDIT_BYTES,
    DEFAULT_CREDIT_ITEMS,
    VERSION,
    Credit,
    Incoming,
    Request,
)
from descartesd.wire.methods import AGENT_WAIT, STREAM_CANCEL, STREAM_CREDIT, Method
from descartesd.wire.server import StreamCancel, StreamCredit

_RESENDS = 2
_SOON_S = 0.001


class Exchange(Protocol):
    """A request and what answers it, as the channel handles it."""

    id: int
    limit: float

    @property
    def was_sent(self) -> bool:
        """Whether the server may have seen it."""

    def begin(self, number: int, now: float, patience_s: float) -> None:
        """Take a number; give up at `limit` unless it could be sent before."""

    def encode(self, now: float) -> bytes:
        """The request as it is sent now."""

    def sent(self, now: float) -> None:
        """It has been handed to libzmq."""

    def take(self, incoming: Incoming) -> bool:
        """An answer has come; True when no further one is expected."""

    def survives(self, endpoint: str) -> bool:
        """The connection is lost: True when it is to be sent again, else it has failed."""

    def expire(self, reason: Callable[[], DescartesError]) -> None:
        """Its time is over; `reason` tells why it could not be sent."""

    def fail(self, error: DescartesError) -> None:
        """End with this error."""


class Call:
    """One request. Once `is_over`, either `result` or `error` is set."""

    __slots__ = (
        "_deadline_s",
        "_idem",
        "_on_over",
        "_params",
        "_sends",
        "_started",
        "_waits_first",
        "error",
        "id",
        "is_over",
        "is_repeatable",
        "limit",
        "method",
        "result",
    )

    def __init__(
        self,
        method: Method[Any, Any],
        params: Raw,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
        is_repeatable: bool = False,
        on_over: Callable[[], None] | None = None,
    ) -> None:
        """`is_repeatable`: sending it twice does no harm although its row says `never`."""
        self.method = method
        self.is_repeatable = is_repeatable or method.resend != "never"
        self.is_over = False
        self.result: Raw | None = None
        self.error: DescartesError | None = None
        self.id = 0
        self.limit = math.inf
        self._params = params
        self._deadline_s = deadline_s
        self._idem = idem
        self._on_over = on_over
        self._sends = 0
        self._started = 0.0
        self._waits_first = False

    @property
    def was_sent(self) -> bool:
        """Whether the server may have seen it."""
        return self._sends > 0

    def begin(self, number: int, now: float, patience_s: float) -> None:
        """Take a number and begin to wait, first for the connection."""
        self.id = number
        self._started = now
        self.limit = now + patience_s
        self._waits_first = self._deadline_s is not None and patience_s > self._deadline_s

    def encode(self, now: float) -> bytes:
        """The request as it is sent now, with what is left of its deadline."""
        deadline_s = self._deadline_s
        if deadline_s is not None and not self._waits_first:
            deadline_s = max(deadline_s - (now - self._started), _SOON_S)
        return codec.encode(
            Request(
                v=VERSION,
                id=self.id,
                method=self.method.name,
                params=self._params,
                deadline_s=UNSET if deadline_s is None else deadline_s,
                idem=UNSET if self._idem is None else self._idem,
            )
        )

    def sent(self, now: float) -> None:
        """From now on its own deadline counts."""
        if self._waits_first:
            # The wait for the server, which the caller asked for, is no part of the deadline.
            self._started = now
            self._waits_first = False
        self._sends += 1
        self.limit = math.inf if self._deadline_s is None else self._started + self._deadline_s

    def take(self, incoming: Incoming) -> bool:
        """Its reply has come."""
        if isinstance(incoming.result, Raw):
            self.result = incoming.result
            self._end()
        elif isinstance(incoming.error, msgspec.Struct):
            self.fail(codec.error_of(incoming.error))
        return self.is_over

    def survives(self, endpoint: str) -> bool:
        """Whether it may be sent again; a wait is, as often as it takes."""
        if not self.was_sent:
            return True
        if self.is_repeatable and (self._sends <= _RESENDS or self.method is AGENT_WAIT):
            return True
        self.fail(_cut(self.method.name, endpoint, is_repeatable=self.is_repeatable))
        return False

    def expire(self, reason: Callable[[], DescartesError]) -> None:
        """No answer, or no connection, in time."""
        if not self.was_sent:
            self.fail(reason())
            return
        self.fail(
            DeadlineExceededError(
                f"no answer to '{self.method.name}' within {self._deadline_s:g} s",
                hint="it may still happen; a longer time is given with --timeout or deadline_s",
                retryable=self.method.resend != "never",
            )
        )

    def fail(self, error: DescartesError) -> None:
        """End with this error."""
        self.error = error
        self._end()

    def _end(self) -> None:
        self.is_over = True
        if self._on_over is not None:
            self._on_over()


def _cut(method: str, endpoint: str, *, is_repeatable: bool) -> UnavailableError:
    if is_repeatable:
        return UnavailableError(
            f"the connection to '{endpoint}' was lost {_RESENDS + 1} times while '{method}' was "
            "under way",
            hint="the journal of the server tells why: journalctl -u descartesd",
        )
    return UnavailableError(
        f"the connection to '{endpoint}' was lost while '{method}' was under way: it may or may "
        "not have happened",
        hint="look at the state before asking again",
        retryable=False,
    )
