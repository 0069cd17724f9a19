"""What both clients share: requests made from typed messages, replies turned back into them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from msgspec import Struct, UnsetType

from descartesd.errors import DescartesError, InternalError
from descartesd.keys.profile import Profile
from descartesd.transport.channel import Call, Channel, Patience
from descartesd.wire import codec
from descartesd.wire.agent import AgentFollow, AgentOutput, AgentStop, AgentWrite, OutputChunk
from descartesd.wire.batch import BatchRun
from descartesd.wire.envelope import raw
from descartesd.wire.event import EventFollow
from descartesd.wire.methods import AGENT_WAIT, Method

if TYPE_CHECKING:
    from descartesd.client.aio import AsyncStream
    from descartesd.client.sync import Stream

Req = TypeVar("Req", bound=Struct)
Rep = TypeVar("Rep", bound=Struct)

# Enough to keep a server busy; far less than it keeps for a client that does not read.
_WINDOW = 256
# What a stop may take beyond its grace time.
_AFTER_GRACE_S = 10.0


class Caller(Protocol):
    """What makes blocking requests: a client, or a pool of them."""

    def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Call a method and wait for its reply; see `Client.call`."""

    def stream(
        self, method: Method[Req, Rep], request: Req, *, deadline_s: float | None = None
    ) -> Stream[Rep]:
        """Open a stream; see `Client.stream`."""


class AsyncCaller(Protocol):
    """What makes requests in an event loop: a client, or a pool of them."""

    async def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Call a method and wait for its reply; see `Client.call`."""

    def stream(
        self, method: Method[Req, Rep], request: Req, *, deadline_s: float | None = None
    ) -> AsyncStream[Rep]:
        """A stream, opened when it is first iterated over; see `Client.stream`."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a client is, in seconds; `timeout_s` None means for ever."""

    timeout_s: float | None
    patience: Patience

    @classmethod
    def of(
        cls,
        profile: Profile,
        timeout_s: float | UnsetType | None,
        connect_timeout_s: float | None,
        wait_for_server_s: float | None,
    ) -> Times:
        """What the caller gave, and where it gave nothing, what the profile says."""
        settings = profile.client
        if isinstance(timeout_s, UnsetType):
            timeout_s = settings.request_timeout_secs
        if connect_timeout_s is None:
            connect_timeout_s = settings.connection_timeout_secs
        if wait_for_server_s is None:
            wait_for_server_s = settings.offline_queue_expiry_secs
        return cls(timeout_s=timeout_s, patience=Patience(connect_timeout_s, wait_for_server_s))

    def deadline_s(
        self, method: Method[Any, Any], request: Struct, given_s: float | None
    ) -> float | None:
        """The deadline of one request: as given (infinity: none), else what suits the method."""
        if given_s is not None:
            return None if given_s == math.inf else given_s
        if method is AGENT_WAIT:
            return None
        grace_s = _grace_s(request)
        if grace_s is not None and self.timeout_s:
            return max(self.timeout_s, grace_s + _AFTER_GRACE_S)
        return self.timeout_s


def _grace_s(request: Struct) -> float | None:
    """The grace time of a stop, as far as the request tells it."""
    if isinstance(request, AgentStop):
        return request.grace_s
    if isinstance(request, BatchRun) and request.verb == "stop":
        given = request.params.get("grace_s")
        return given if isinstance(given, int | float) else None
    return None


def new_key() -> str:
    """Make an idempotency key nobody else has.

    It begins with the milliseconds, as a UUID of version 7 (RFC 9562): what was asked at the same
    time the server finds at the same place.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def new_call(
    method: Method[Any, Any],
    request: Struct,
    *,
    deadline_s: float | None,
    idem: str | None = None,
    on_over: Callable[[], None] | None = None,
) -> Call:
    """Make a call; one whose method keeps a record by key gets a key."""
    if idem is None and method.resend == "idem":
        idem = new_key()
    # What a writer has been given before is dropped by the keeper: such a write may be repeated.
    is_counted = (
        isinstance(request, AgentWrite)
        and request.writer is not None
        and request.offset is not None
    )
    return Call(
        method,
        raw(request),
        deadline_s=deadline_s,
        idem=idem,
        is_repeatable=is_counted,
        on_over=on_over,
    )


def reply_of(method: Method[Any, Rep], call: Call) -> Rep:
    """The reply to a call that is over; raises its error."""
    if call.error is not None:
        raise call.error
    if call.result is None:
        raise InternalError(f"'{method.name}' is over without a result")
    return codec.decode_as(method.reply, call.result)


class Batch:
    """Many calls, so many of them under way at once as are good for the server."""

    def __init__(self, calls: Iterable[tuple[Method[Any, Any], Struct]], make: MakeCall) -> None:
        """`make` makes a call of a method, a request and what to do when it is over."""
        self._make = make
        self._left: Iterator[tuple[Method[Any, Any], Struct]] = iter(calls)
        self._calls: list[tuple[Method[Any, Any], Call | DescartesError]] = []
        self._under_way = 0
        self._is_exhausted = False

    @property
    def is_done(self) -> bool:
        """Whether every call has been made and is over."""
        return self._is_exhausted and self._under_way == 0

    @property
    def wants_more(self) -> bool:
        """Whether it is time to `refill` again."""
        return self.is_done or (not self._is_exhausted and self._under_way <= _WINDOW // 2)

    def refill(self, channel: Channel) -> None:
        """Send further calls, until enough are under way."""
        while self._under_way < _WINDOW and not self._is_exhausted:
            try:
                method, request = next(self._left)
            except StopIteration:
                self._is_exhausted = True
                return
            call = self._make(method, request, self._one_is_over)
            try:
                channel.submit(call)
            except DescartesError as error:
                self._calls.append((method, error))
            else:
                self._calls.append((method, call))
                self._under_way += 1

    def forget(self, channel: Channel) -> None:
        """Wait for nothing more."""
        for _, call in self._calls:
            if isinstance(call, Call):
                channel.forget(call)

    def results(self) -> list[Any]:
        """A reply or an error for each call, in their order."""
        return [_outcome(method, call) for method, call in self._calls]

    def _one_is_over(self) -> None:
        self._under_way -= 1


class MakeCall(Protocol):
    """Makes the call of one request of a batch."""

    def __call__(
        self, method: Method[Any, Any], request: Struct, on_over: Callable[[], None], /
    ) -> Call:
        """Make it."""


def _outcome(method: Method[Any, Any], call: Call | DescartesError) -> Any:
    if isinstance(call, DescartesError):
        return call
    try:
        return reply_of(method, call)
    except DescartesError as error:
        return error


def is_numbered_later(request: Struct) -> bool:
    """Whether it wants what happens from now on, and now has a number only the server knows."""
    return isinstance(request, EventFollow) and request.since is None


def tail_requests(request: AgentFollow) -> list[AgentOutput]:
    """What to ask to learn where it begins, if not at offsets; a byte of each comes along."""
    if request.tail is None and request.since is None:
        return []
    given = {"stdout": request.offsets.stdout, "stderr": request.offsets.stderr}
    return [
        AgentOutput(
            id=request.id,
            stream=stream,
            offset=given[stream],
            tail=request.tail,
            since=request.since,
            limit=1,
        )
        for stream in request.streams
    ]


def from_tail(request: AgentFollow, chunks: Iterable[OutputChunk]) -> AgentFollow:
    """The same request by offsets, which unlike lines and times can be gone on from."""
    offsets = {chunk.stream: chunk.offset for chunk in chunks}
    return msgspec.structs.replace(
        request, tail=None, since=None, offsets=msgspec.structs.replace(request.offsets, **offsets)
    )
