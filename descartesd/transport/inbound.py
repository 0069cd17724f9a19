"""A stream as its client sees it: items under credit, gone on with after a lost connection."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from descartesd.errors import DeadlineExceededError, DescartesError, UnavailableError
from descartesd.transport.calls import (
    LEAST_S,
    RESENDS,
    Patience,
    cut,
    ended,
    is_own_deadline,
    too_late,
)
from descartesd.transport.causes import never_sent
from descartesd.transport.positions import position_of
from descartesd.wire import codec
from descartesd.wire.agent import OutputChunk
from descartesd.wire.envelope import (
    DEFAULT_CREDIT_BYTES,
    DEFAULT_CREDIT_ITEMS,
    VERSION,
    Credit,
    Incoming,
    Request,
    raw,
)
from descartesd.wire.methods import STREAM_CANCEL, STREAM_CREDIT, Method
from descartesd.wire.server import StreamCancel, StreamCredit


class InboundStream:
    """One open stream: at most the granted credit waits in it for its consumer.

    Output and numbered events go on after a lost connection and an orderly restart of the server,
    as often as it takes; any other stream fails then.
    """

    __slots__ = (
        "_deadline_s",
        "_has_opened",
        "_on_news",
        "_params",
        "_position",
        "_sends",
        "_taken_bytes",
        "_taken_items",
        "_timeout_s",
        "_waiting",
        "_waiting_bytes",
        "began",
        "error",
        "id",
        "is_over",
        "limit",
        "method",
    )

    def __init__(
        self,
        method: Method[Any, Any],
        request: msgspec.Struct,
        *,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        on_news: Callable[[], None] | None = None,
    ) -> None:
        """It is opened within `timeout_s` and ends after `deadline_s` seconds at the latest."""
        self.method = method
        self.is_over = False
        self.error: DescartesError | None = None
        self.id = 0
        self.limit = math.inf
        self.began = 0.0
        self._params = raw(request)
        self._position = position_of(request)
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._on_news = on_news
        self._sends = 0
        self._has_opened = False
        self._waiting: deque[tuple[msgspec.Struct, int]] = deque()
        self._waiting_bytes = 0
        self._taken_items = 0
        self._taken_bytes = 0

    @property
    def was_sent(self) -> bool:
        """Whether the server may have seen the request."""
        return self._has_opened or self._sends > 0

    @property
    def has_news(self) -> bool:
        """Whether the consumer need not wait: an item is there, or nothing more comes."""
        return bool(self._waiting) or self.is_over

    def begin(self, number: int, now: float, patience: Patience) -> None:
        """Take a number and begin to wait, first for the connection."""
        self.id = number
        self.began = now
        self.limit = now + patience.limit_s(self._deadline_s)

    def encode(self, now: float) -> bytes:
        """The request that opens the stream where the consumer stands."""
        if self._position is not None:
            self._params = raw(self._position.request(self._items()))
        left_s = None if self._deadline_s is None else self._deadline_s - (now - self.began)
        self._taken_items = self._taken_bytes = 0
        return codec.encode(
            Request(
                v=VERSION,
                id=self.id,
                method=self.method.name,
                params=self._params,
                deadline_s=UNSET if left_s is None else max(left_s, LEAST_S),
                credit=Credit(
                    items=max(DEFAULT_CREDIT_ITEMS - len(self._waiting), 1),
                    bytes=max(DEFAULT_CREDIT_BYTES - self._waiting_bytes, 1),
                ),
            )
        )

    def sent(self, now: float) -> None:
        """From now on the server has `timeout_s` to open it."""
        self._sends += 1
        self.limit = min(
            math.inf if self._timeout_s is None else now + self._timeout_s, self._ends_at
        )

    @property
    def _ends_at(self) -> float:
        return math.inf if self._deadline_s is None else self.began + self._deadline_s

    def take(self, incoming: Incoming) -> bool:
        """The stream is open, an item has come, or its end."""
        if isinstance(incoming.error, msgspec.Struct):
            self._refused(codec.error_of(incoming.error))
        elif incoming.end:
            self._end()
        elif incoming.stream:
            # A loss counts only where it brought nothing.
            self._sends = 0
            self._has_opened = True
            self.limit = self._ends_at
        elif isinstance(incoming.item, Raw):
            self._keep(incoming.item)
        return self.is_over

    def _refused(self, error: DescartesError) -> None:
        if isinstance(error, DeadlineExceededError) and is_own_deadline(error):
            self.fail(self._out_of_time())
            return
        is_leaving = isinstance(error, UnavailableError) and error.retryable
        # A server that stops says so and closes the connection: the next one is waited for.
        if not (is_leaving and self._has_opened and self._position is not None):
            self.fail(error)

    def _keep(self, item: Raw) -> None:
        try:
            decoded = codec.decode_as(self.method.reply, item)
        except DescartesError as error:
            self.fail(error)
            return
        # The credit counts the data of a chunk, and of any other item its encoding.
        cost = len(decoded.data) if isinstance(decoded, OutputChunk) else len(memoryview(item))
        self._waiting.append((decoded, cost))
        self._waiting_bytes += cost
        self._tell()

    def pop(self) -> msgspec.Struct | None:
        """The next item the consumer has not been given yet, None when none waits."""
        while self._waiting:
            item, cost = self._waiting.popleft()
            self._waiting_bytes -= cost
            self._taken_items += 1
            self._taken_bytes += cost
            if self._position is None:
                return item
            fresh = self._position.accept(item)
            if fresh is not None:
                return fresh
        return None

    def regrant(self) -> bytes | None:
        """The request that lets the server send what has been consumed, once it is worth it."""
        if self.is_over or (
            self._taken_items * 2 < DEFAULT_CREDIT_ITEMS
            and self._taken_bytes * 2 < DEFAULT_CREDIT_BYTES
        ):
            return None
        grant = StreamCredit(stream=self.id, items=self._taken_items, bytes=self._taken_bytes)
        self._taken_items = self._taken_bytes = 0
        return codec.encode(
            Request(v=VERSION, id=f"c{self.id}", method=STREAM_CREDIT.name, params=raw(grant))
        )

    def cancel(self) -> bytes:
        """The request that ends the stream."""
        wish = StreamCancel(stream=self.id)
        return codec.encode(
            Request(v=VERSION, id=f"x{self.id}", method=STREAM_CANCEL.name, params=raw(wish))
        )

    def survives(self, endpoint: str) -> bool:
        """Whether it is opened again."""
        if not self.was_sent:
            return True
        if self._position is None or self._sends > RESENDS:
            self.fail(cut(self.method.name, endpoint, is_repeatable=True))
            return False
        if self._position.is_complete(self._items()):
            self._end()
            return False
        if self._has_opened:
            # However long the server is away: whoever reads on wants to go on.
            self.limit = self._ends_at
        return True

    def expire(self, reason: Callable[[float | None], DescartesError]) -> None:
        """It was not opened, or has lasted as long as it may."""
        is_ended = self.limit >= self._ends_at
        if not self.was_sent:
            self.fail(reason(self._deadline_s if is_ended else None))
        elif is_ended:
            self.fail(self._out_of_time())
        else:
            self.fail(too_late(self.method, self._timeout_s))

    def _out_of_time(self) -> DeadlineExceededError:
        tell = ended if self._has_opened else too_late
        return tell(self.method, self._deadline_s)

    def fail(self, error: DescartesError) -> None:
        """End with this error, behind the items that wait."""
        self.error = error if self.was_sent else never_sent(error, self.method.name)
        self._end()

    def abandon(self) -> None:
        """The consumer wants nothing more."""
        self._waiting.clear()
        self._end()

    def _end(self) -> None:
        self.is_over = True
        self._tell()

    def _tell(self) -> None:
        if self._on_news is not None:
            self._on_news()

    def _items(self) -> list[msgspec.Struct]:
        return [item for item, _ in self._waiting]
