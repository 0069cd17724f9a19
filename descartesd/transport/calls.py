"""One request of a client, from the wait for a connection to its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Raw

from descartesd.errors import DeadlineExceededError, DescartesError, UnavailableError
from descartesd.transport.causes import never_sent
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION, Incoming, Request
from descartesd.wire.methods import AGENT_WAIT, Method, Resend

RESENDS = 2
# What is left of a deadline is never sent as less than this: 0 is not a deadline.
LEAST_S = 0.001
# What to do when the time is over, by the kind of method.
_AFTERWARDS: dict[Resend, str] = {
    "read": "a longer time is given with --timeout or deadline_s",
    "state": "it may still happen; asking again does no harm, and a longer time is given with "
    "--timeout or deadline_s",
    "idem": "it may still happen; asked again under the same idempotency key it is done once only",
    "never": "it may still happen; look at the state before asking again",
}


class Patience(NamedTuple):
    """Seconds a request waits for a connection: always, and when asked to wait for the server."""

    connect_s: float
    server_s: float = 0.0

    def limit_s(self, deadline_s: float | None) -> float:
        """Seconds until a request that could not be sent fails."""
        connect_s = self.connect_s if deadline_s is None else min(self.connect_s, deadline_s)
        return max(connect_s, self.server_s)


class Exchange(Protocol):
    """A request and what answers it, as the channel handles it."""

    id: int
    limit: float
    began: float
    method: Method[Any, Any]

    @property
    def was_sent(self) -> bool:
        """Whether the server may have seen it."""

    def begin(self, number: int, now: float, patience: Patience) -> None:
        """Take a number; give up at `limit` unless it could be sent before."""

    def encode(self, now: float) -> bytes:
        """The request as it is sent now."""

    def sent(self, now: float) -> None:
        """It has been handed to libzmq."""

    def take(self, incoming: Incoming) -> bool:
        """An answer has come; True when no further one is expected."""

    def survives(self, endpoint: str) -> bool:
        """The connection is lost: True when it is to be sent again, else it has failed."""

    def expire(self, reason: Callable[[float | None], DescartesError]) -> None:
        """Its time is over; `reason` tells why it could not be sent.

        `reason` is given the deadline when it was that which came first.
        """

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
        "began",
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
        self.began = 0.0
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

    def begin(self, number: int, now: float, patience: Patience) -> None:
        """Take a number and begin to wait, first for the connection."""
        self.id = number
        self.began = self._started = now
        self.limit = now + patience.limit_s(self._deadline_s)
        self._waits_first = patience.server_s > 0

    def encode(self, now: float) -> bytes:
        """The request as it is sent now, with what is left of its deadline."""
        deadline_s = self._deadline_s
        if deadline_s is not None and not self._waits_first:
            deadline_s = max(deadline_s - (now - self._started), LEAST_S)
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
            self._end(None)
        elif isinstance(incoming.error, msgspec.Struct):
            error = codec.error_of(incoming.error)
            if isinstance(error, DeadlineExceededError):
                if self._deadline_s is not None and is_own_deadline(error):
                    error = too_late(self.method, self._deadline_s)
                self._tell_key(error)
            self._end(error)
        return self.is_over

    def survives(self, endpoint: str) -> bool:
        """Whether it may be sent again; a wait is, as often as it takes."""
        if not self.was_sent:
            return True
        if self.is_repeatable and (self._sends <= RESENDS or self.method is AGENT_WAIT):
            return True
        self.fail(cut(self.method.name, endpoint, is_repeatable=self.is_repeatable))
        return False

    def expire(self, reason: Callable[[float | None], DescartesError]) -> None:
        """No answer, or no connection, in time."""
        deadline_s = self._deadline_s
        if self.was_sent:
            self.fail(too_late(self.method, deadline_s))
        elif deadline_s is None or self._waits_first or self.limit < self.began + deadline_s:
            self.fail(reason(None))
        else:
            self.fail(reason(deadline_s))

    def fail(self, error: DescartesError) -> None:
        """End without an answer, with this error."""
        if not self.was_sent:
            error = never_sent(error, self.method.name)
        else:
            self._tell_key(error)
        self._end(error)

    def _tell_key(self, error: DescartesError) -> None:
        """What was sent and may still happen can be asked about by its key."""
        if self._idem is None:
            return
        error.details = {**(error.details or {}), "idem": self._idem}
        if isinstance(error, DeadlineExceededError | UnavailableError):
            error.hint = (
                f"it may still happen; asked again with --idem {self._idem} (in Python: idem=) it "
                "is done once only, and answered"
            )

    def _end(self, error: DescartesError | None) -> None:
        self.error = error
        self.is_over = True
        if self._on_over is not None:
            self._on_over()


def too_late(method: Method[Any, Any], allowed_s: float | None) -> DeadlineExceededError:
    """The time of a request is over."""
    return DeadlineExceededError(
        f"no answer to '{method.name}' within {allowed_s:g} s",
        hint=_AFTERWARDS[method.resend],
        retryable=method.resend != "never",
    )


def ended(method: Method[Any, Any], deadline_s: float | None) -> DeadlineExceededError:
    """An open stream has lasted as long as its deadline let it."""
    return DeadlineExceededError(
        f"'{method.name}' was ended after {deadline_s:g} s, as asked",
        hint="without --timeout or deadline_s it goes on",
        retryable=True,
    )


def not_done(method: Method[Any, Any], deadline_s: float | None) -> DeadlineExceededError:
    """What the server answers when the deadline sent to it, or its own limit, is over."""
    limit = "in time" if deadline_s is None else f"within {deadline_s:.3g} s"
    return DeadlineExceededError(
        f"'{method.name}' was not done {limit}",
        hint=_AFTERWARDS[method.resend],
        retryable=method.resend != "never",
        details=None if deadline_s is None else {"deadline_s": deadline_s},
    )


def is_own_deadline(error: DeadlineExceededError) -> bool:
    """Whether the server speaks of the deadline it was sent: what was left of the caller's."""
    return "deadline_s" in (error.details or {})


def cut(method: str, endpoint: str, *, is_repeatable: bool) -> UnavailableError:
    """The connection was lost and the request is not sent again."""
    if is_repeatable:
        return UnavailableError(
            f"the connection to '{endpoint}' was lost {RESENDS + 1} times while '{method}' was "
            "under way",
            hint="the log of the server tells why",
        )
    return UnavailableError(
        f"the connection to '{endpoint}' was lost while '{method}' was under way: it may or may "
        "not have happened",
        hint="look at the state before asking again",
        retryable=False,
    )
