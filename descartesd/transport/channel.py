"""The DEALER end of both clients: everything a client does but wait.

No call but `finish` blocks, and none may be made from two threads at once. A driver waits until
one of `descriptors()` is readable or the clock has reached `wake_at` and calls `process`; it does
so as well after every other call, since sending can swallow the signal that a message has come.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import zmq
from msgspec import Struct

from descartesd.errors import DescartesError, InvalidArgumentError, UnavailableError
from descartesd.keys.profile import Profile
from descartesd.transport.calls import Call, Exchange, Patience
from descartesd.transport.causes import fresh, made_elsewhere, queue_full
from descartesd.transport.circuit import Circuit
from descartesd.transport.connector import Connector
from descartesd.transport.inbound import InboundStream
from descartesd.wire import codec
from descartesd.wire.envelope import CURVE_OVERHEAD
from descartesd.wire.methods import SERVER_HELLO
from descartesd.wire.server import ServerHello

__all__ = ["Call", "Channel", "InboundStream", "OnConnection", "Patience", "State"]

# idle: no connection, and none is wanted · circuit_open: requests fail at once for a while
State = Literal["idle", "connecting", "up", "circuit_open", "closed"]
# Told "up" or "lost", and the endpoint.
OnConnection = Callable[[str, str], object]

DEFAULT_MAX_REQUEST_BYTES = 262_144 - CURVE_OVERHEAD
_LINGER_MS = 500


class Channel:
    """Requests and streams over one connection at a time, which is made when one is wanted.

    A request made without a connection waits for it, in a queue that is bounded. When the
    connection is lost, what may be repeated is sent again over the next one, at most twice; the
    rest fails.
    """

    def __init__(
        self,
        profile: Profile,
        patience: Patience,
        *,
        on_connection: OnConnection | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it; nothing is connected yet. Raises InvalidArgumentError on a useless profile.

        `on_connection` is called from within `process`, so it must not use the channel.
        """
        settings = profile.client
        self._pid = os.getpid()
        self._context = zmq.Context(io_threads=1)
        self._connector = Connector(profile, self._context, attempt_s=patience.connect_s)
        # A context collected before its sockets waits for them for ever. What the finalizer holds
        # outlives the channel, so it is closed in order.
        self._abandoned = weakref.finalize(
            self, _abandon, self._connector, self._context, self._pid
        )
        self._abandoned.atexit = False
        # Who was told to wait for the server waits, however long it is away.
        failures = 0 if patience.server_s else settings.circuit_failures
        self._circuit = Circuit(failures=failures, reset_s=settings.circuit_reset_secs)
        self._may_reconnect = settings.auto_reconnect
        self._most_queued = settings.offline_queue_size or math.inf
        self._patience = patience
        self._on_connection = on_connection
        self._clock = clock
        self._ids = itertools.count(1)
        self._exchanges: dict[int, Exchange] = {}
        self._queue: OrderedDict[int, Exchange | bytes] = OrderedDict()
        self._next_limit = math.inf
        self._is_closed = False
        self.max_request_bytes = DEFAULT_MAX_REQUEST_BYTES

    @property
    def generation(self) -> int:
        """Changes whenever `descriptors()` does."""
        return self._connector.generation

    @property
    def wake_at(self) -> float:
        """When `process` has something to do although nothing is heard; clock time or infinity."""
        return min(self._next_limit, self._connector.wake_at)

    @property
    def endpoint(self) -> str:
        """The endpoint connected to, or tried last."""
        return self._connector.endpoint

    @property
    def is_here(self) -> bool:
        """Whether this is the process it was made in: libzmq works in no other."""
        return os.getpid() == self._pid

    def check_process(self) -> None:
        """Raise UnavailableError in a process forked since it was made."""
        if not self.is_here:
            raise made_elsewhere(self._pid)

    @property
    def state(self) -> State:
        """What a request made now would meet; raises as `check_process`."""
        self.check_process()
        if self._is_closed:
            return "closed"
        if self._connector.is_up:
            return "up"
        if self._circuit.is_open(self._clock()):
            return "circuit_open"
        return "connecting" if self._exchanges else "idle"

    @property
    def outstanding(self) -> int:
        """How many requests and streams are not over."""
        return len(self._exchanges)

    @property
    def queued(self) -> int:
        """How many of them wait to be sent."""
        return len(self._queue)

    def descriptors(self) -> tuple[int, ...]:
        """What to wait on for reading; edge-triggered for the messages."""
        link = self._connector.link
        return () if link is None else link.descriptors

    def submit(self, exchange: Call | InboundStream) -> None:
        """Send a request, now or once there is a connection.

        Raises InvalidArgumentError when it is larger than the server takes, UnavailableError when
        the channel is closed, another process's, or nobody has answered for long, and
        ResourceExhaustedError when too many requests wait already.
        """
        self.check_process()
        if self._is_closed:
            raise UnavailableError("the client is closed", retryable=False)
        now = self._clock()
        exchange.begin(next(self._ids), now, self._patience)
        payload = exchange.encode(now)
        if len(payload) > self.max_request_bytes:
            raise _too_large(exchange.method.name, len(payload), self.max_request_bytes)
        if self._queue or self._is_in_doubt() or not self._hand_over(payload):
            self._enqueue(exchange, now)
        else:
            exchange.sent(now)
        self._exchanges[exchange.id] = exchange
        self._next_limit = min(self._next_limit, exchange.limit)

    def process(self) -> None:
        """Read what has come, send what waits, and let time pass; raises as `check_process`."""
        self.check_process()
        if self._is_closed:
            return
        self._receive()
        now = self._clock()
        while (change := self._connector.advance(now)) is not None:
            if isinstance(change, DescartesError):
                self._on_hopeless(change, now)
            elif change == "lost":
                self._on_lost(now)
            else:
                self._circuit.close()
                self._announce("up")
        if self._queue:
            self._flush(now)
        if now >= self._next_limit:
            self._expire(now)
        if not self._exchanges:
            self._connector.rest()

    def next_item(self, stream: InboundStream) -> Struct | None:
        """Take an item of a stream and let the server send on; None when none waits.

        Raises as `check_process`.
        """
        self.check_process()
        item = stream.pop()
        if not stream.is_over and (grant := stream.regrant()) is not None:
            self._tell(grant)
        return item

    def forget(self, exchange: Call | InboundStream) -> None:
        """Nobody waits for this any more; its answer will be dropped, its stream is ended."""
        if self._exchanges.pop(exchange.id, None) is None:
            return
        self._queue.pop(exchange.id, None)
        if isinstance(exchange, InboundStream):
            if exchange.was_sent:
                self._tell(exchange.cancel())
            exchange.abandon()

    def close(self) -> None:
        """Fail what is under way and close; `finish` must follow."""
        if self._is_closed:
            return
        self._fail_all(UnavailableError("the client was closed", retryable=False))
        self._is_closed = True
        self._connector.drop(_LINGER_MS if self._connector.is_up else 0)
        self._abandoned.detach()

    def finish(self) -> None:
        """Wait, at most half a second, until what was sent before `close` has gone out."""
        self._context.term()

    def _tell(self, payload: bytes) -> None:
        """Send something whose answer nobody needs, unless there is no connection any more."""
        if self._connector.is_up and (self._queue or not self._hand_over(payload)):
            self._queue[next(self._ids)] = payload

    def _enqueue(self, exchange: Exchange, now: float) -> None:
        if not self._connector.is_up:
            if len(self._queue) >= self._most_queued:
                raise queue_full(self._connector.endpoint, len(self._queue))
            self._circuit.admit(now, self._connector.endpoint)
        self._queue[exchange.id] = exchange
        self._connector.want(now)

    def _is_in_doubt(self) -> bool:
        # libzmq takes messages for a connection that is lost, and nobody would know they were not
        # sent: what has happened is looked at first, in `process`.
        link = self._connector.link
        return link is not None and link.has_news()

    def _hand_over(self, payload: bytes) -> bool:
        link = self._connector.link
        return link is not None and link.is_up and link.send(payload)

    def _flush(self, now: float) -> None:
        while self._queue:
            number, entry = next(iter(self._queue.items()))
            if not self._hand_over(entry if isinstance(entry, bytes) else entry.encode(now)):
                return
            del self._queue[number]
            if not isinstance(entry, bytes):
                entry.sent(now)
                self._next_limit = min(self._next_limit, entry.limit)
        # The signal that an answer has come may have been swallowed by the sending.
        self._receive()

    def _receive(self) -> None:
        link = self._connector.link
        if link is None or not link.is_readable():
            return
        while self._exchanges and (payload := link.receive()) is not None:
            if payload:
                self._dispatch(payload)

    def _dispatch(self, payload: bytes) -> None:
        try:
            incoming = codec.decode_incoming(payload)
        except DescartesError:
            # Whose answer it was cannot be read: that request runs into its deadline.
            return
        exchange = self._exchanges.get(incoming.id) if isinstance(incoming.id, int) else None
        if exchange is None or not exchange.take(incoming):
            return
        del self._exchanges[exchange.id]
        if isinstance(exchange, Call) and exchange.method is SERVER_HELLO:
            self._learn(exchange)

    def _learn(self, hello: Call) -> None:
        if hello.result is None:
            return
        try:
            told = codec.decode_as(ServerHello, hello.result)
        except DescartesError:
            # The caller decodes it too, and is told.
            return
        self.max_request_bytes = told.limits.max_request_bytes
        if told.next_server_key is not None:
            self._connector.also_accept(told.next_server_key)

    def _announce(self, news: Literal["up", "lost"]) -> None:
        if self._on_connection is not None:
            self._on_connection(news, self._connector.endpoint)

    def _on_hopeless(self, error: DescartesError, now: float) -> None:
        if self._exchanges and isinstance(error, UnavailableError):
            self._circuit.failed(max(each.began for each in self._exchanges.values()), now)
        self._fail_all(error)

    def _on_lost(self, now: float) -> None:
        self._announce("lost")
        self._receive()
        self._connector.drop()
        self._queue.clear()
        if not self._may_reconnect:
            self._fail_all(_lost(self._connector.endpoint))
        for number, exchange in list(self._exchanges.items()):
            if exchange.survives(self._connector.endpoint):
                self._queue[number] = exchange
            else:
                del self._exchanges[number]
        if self._exchanges:
            self._connector.retry(now)

    def _expire(self, now: float) -> None:
        self._next_limit = math.inf
        for number, exchange in list(self._exchanges.items()):
            if exchange.limit <= now:
                del self._exchanges[number]
                self._queue.pop(number, None)
                self._on_expired(exchange, now)
            else:
                self._next_limit = min(self._next_limit, exchange.limit)

    def _on_expired(self, exchange: Exchange, now: float) -> None:
        exchange.expire(self._connector.reason)
        if not exchange.was_sent:
            if not self._connector.is_up:
                self._circuit.failed(exchange.began, now)
        elif isinstance(exchange, InboundStream):
            self._tell(exchange.cancel())

    def _fail_all(self, error: DescartesError) -> None:
        exchanges = list(self._exchanges.values())
        self._exchanges.clear()
        self._queue.clear()
        for exchange in exchanges:
            exchange.fail(fresh(error))


def _abandon(connector: Connector, context: zmq.Context[zmq.Socket[bytes]], pid: int) -> None:
    """Close what nobody can close any more."""
    if os.getpid() != pid:
        return
    connector.drop()
    context.term()
    # From here over the finalizer to whoever let go of the client.
    warnings.warn(f"unclosed client of '{connector.endpoint}'", ResourceWarning, stacklevel=3)


def _lost(endpoint: str) -> UnavailableError:
    return UnavailableError(
        f"the connection to '{endpoint}' was lost",
        hint="auto_reconnect is off in the profile: what was under way may have happened",
        retryable=False,
    )


def _too_large(method: str, size: int, limit: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the request '{method}' has {size} bytes: max_request_bytes of the server is {limit}",
        hint="give a long text to the agent by its stdin or in a file (for a backend: task_via)",
    )
