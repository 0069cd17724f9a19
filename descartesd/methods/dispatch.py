"""Takes a request from its bytes to its answer: decode, identify, authorise, decode, call."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar

from msgspec import Struct

from descartesd.errors import (
    DeadlineExceededError,
    DescartesError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from descartesd.methods.call import Call, Handler
from descartesd.methods.idempotency import Answer, Answers
from descartesd.methods.policy import Policy, refusal
from descartesd.methods.rows import Row, rows_of
from descartesd.observe.metrics import RequestMetrics
from descartesd.transport.server import Peer
from descartesd.transport.shed import Shed
from descartesd.transport.streams import Key, Streams
from descartesd.transport.unread import Unread
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION, Request, Result

log = logging.getLogger(__name__)

T = TypeVar("T")

_OPEN_PER_PEER = 1000


@dataclass(slots=True)
class _Open:
    """A request that is being worked on; its answer goes to `peer`."""

    fd: int
    task: asyncio.Task[None]


class Dispatcher:
    """Calls the function of each method; every request gets exactly one answer."""

    def __init__(
        self,
        policy: Policy,
        answers: Answers,
        *,
        request_timeout_s: float,
        max_message_bytes: int,
    ) -> None:
        self._rows: dict[str, Row] = {}
        self._policy = policy
        self._answers = answers
        self._request_timeout_s = request_timeout_s
        self._max_message_bytes = max_message_bytes
        self._open: dict[Key, _Open] = {}
        self._per_peer: Counter[bytes] = Counter()
        self._work: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._is_stopping = False
        self._send: Callable[[Peer, bytes], bool] = _unsent
        self.unread = Unread()
        self.streams = Streams(self._send_now, self.unread)
        self.shed = Shed(self._send_now)
        self.metrics = RequestMetrics()

    def register(self, handlers: Mapping[str, Handler]) -> None:
        """Take the function of every method; raises ValueError when one is missing."""
        self._rows = rows_of(handlers, self.metrics)

    def start(self, group: asyncio.TaskGroup, send: Callable[[Peer, bytes], bool]) -> None:
        """Begin to answer; waiting requests run as tasks of `group`."""
        self._group = group
        self._send = send

    def refuse_changes(self) -> None:
        """From now on answer only what changes nothing."""
        self._is_stopping = True

    async def finish(self, within_s: float) -> None:
        """Wait for what is open to be answered, this long at most."""
        tasks = [opened.task for opened in self._open.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    def stop(self) -> None:
        """End: what still waits is told that the server is stopping."""
        self._group = None
        self.streams.end_all(_stopping())
        for task in [opened.task for opened in self._open.values()] + list(self._work):
            task.cancel()
        self.shed.close()

    def _send_now(self, peer: Peer, payload: bytes) -> bool:
        return self._send(peer, payload)

    def on_request(self, peer: Peer, payload: bytes) -> None:
        """Work on one request."""
        began_ns = perf_counter_ns()
        if peer.fd in self.shed.peers:
            self.shed.add(peer, [codec.read_id(payload)])
            return
        try:
            request = codec.decode_request(payload)
        except DescartesError as exc:
            self.metrics.unknown += 1
            self._fail(peer, codec.read_id(payload), exc)
            return
        row = self._rows.get(request.method)
        if row is None:
            self.metrics.unknown += 1
            self._fail(peer, request.id, self._unknown(request.method))
            return
        row.metrics.requests += 1
        try:
            call, params = self._admit(row, peer, request, began_ns)
            if row.waits or (peer.fd in self.unread.windows and self.unread.is_full(peer.fd)):
                self._begin(row, call, request, params)
            else:
                self._reply(peer, request.id, row.handler(call, params))
                row.metrics.answered(began_ns)
        except DescartesError as exc:
            self._refuse(row, began_ns, peer, request.id, exc)
        except Exception as exc:  # the boundary: a bug of ours is answered and logged
            self._refuse(row, began_ns, peer, request.id, incident(exc, request.method))

    def on_disconnected(self, fd: int) -> None:
        """A connection closed: what only it was waiting for ends."""
        self.streams.drop_connection(fd)
        self.shed.drop(fd)
        for opened in [o for o in self._open.values() if o.fd == fd]:
            opened.task.cancel()

    def tidy(self) -> None:
        """End the streams of who is let in no longer, and serve again who reads again."""
        self._policy.refresh()
        self.streams.expel(self._policy.identify)
        self.shed.settle()

    def on_shed(self, peer: Peer, payload: bytes) -> None:
        """A peer does not read: its streams end and its requests are dropped until it does."""
        unanswered = {key: opened for key, opened in self._open.items() if key[0] == peer.route}
        self.shed.add(peer, [codec.read_id(payload), *(request_id for _, request_id in unanswered)])
        for opened in unanswered.values():
            opened.task.cancel()

    def _admit(self, row: Row, peer: Peer, request: Request, began_ns: int) -> tuple[Call, Struct]:
        caller = self._policy.identify(peer.user_id)
        if caller.rank < row.rank:
            raise refusal(caller, row.method)
        if self._is_stopping and not row.is_harmless:
            raise _stopping()
        if row.method.stream and peer.delimited:
            raise InvalidArgumentError(
                f"{request.method} is a stream, which a REQ socket cannot receive",
                hint="use a DEALER socket and send the request without an empty frame before it",
            )
        params = row.decode(request.params)
        idem = request.idem if isinstance(request.idem, str) else None
        return Call(caller, peer, began_ns, idem), params

    def _unknown(self, name: str) -> UnimplementedError:
        near = codec.nearest(name, self._rows)
        return UnimplementedError(
            f"this server has no method '{name}'",
            hint=f"did you mean '{near}'" if near else "see what it has: server.methods",
        )

    def _begin(self, row: Row, call: Call, request: Request, params: Struct) -> None:
        key = (call.peer.route, request.id)
        opened = self._open.get(key)
        if opened is not None:
            if not opened.task.cancelling():
                raise InvalidArgumentError(
                    f"id: a request '{request.id}' is open on this connection already"
                )
            self._close(key, opened.task)
        if self._per_peer[call.peer.route] >= _OPEN_PER_PEER:
            raise ResourceExhaustedError(
                f"{_OPEN_PER_PEER} requests are open on this connection",
                hint="wait for answers before asking on",
            )
        if self._group is None:
            raise _stopping()
        name = f"{request.method} {request.id}"
        if row.method.stream:
            stream = self.streams.make(call.peer, request.id, request.credit)
            stream.on_open = partial(row.metrics.answered, call.began_ns)
            work = self._stream(row, call._replace(stream=stream), request, params)
            task = self._group.create_task(work, name=name)
            # At once: its credit and its end may be the next messages.
            self.streams.add(stream, task)
        else:
            task = self._group.create_task(self._wait(row, call, request, params), name=name)
        self._open[key] = _Open(call.peer.fd, task)
        self._per_peer[call.peer.route] += 1
        task.add_done_callback(lambda done: self._close(key, done))

    def _close(self, key: Key, task: asyncio.Task[None] | None) -> None:
        """Forget a request, before its last message goes out: its id may come again at once."""
        opened = self._open.get(key)
        if opened is None or opened.task is not task:
            return
        del self._open[key]
        self._per_peer[key[0]] -= 1
        if not self._per_peer[key[0]]:
            del self._per_peer[key[0]]

    async def _wait(self, row: Row, call: Call, request: Request, params: Struct) -> None:
        try:
            async with asyncio.timeout(row.limit_s(request, self._request_timeout_s)):
                size = row.room(params)
                if size:
                    # Not before there is room: nothing that large is kept for who does not read.
                    async with self.unread.room(call.peer.fd, size):
                        await self._answer(row, call, request, params)
                else:
                    await self._answer(row, call, request, params)
            return
        except TimeoutError:
            error: DescartesError = row.too_late(request)
        except asyncio.CancelledError:
            if self._group is None:
                self._refuse(row, call.began_ns, call.peer, request.id, _stopping())
            raise
        except DescartesError as exc:
            if isinstance(exc, DeadlineExceededError):
                exc.retryable = row.method.resend != "never"
            error = exc
        except Exception as exc:  # the boundary: a bug of ours is answered and logged
            error = incident(exc, request.method)
        self._refuse(row, call.began_ns, call.peer, request.id, error)

    async def _answer(self, row: Row, call: Call, request: Request, params: Struct) -> None:
        if not row.waits:
            result: Any = row.run(call, params)
        elif row.is_unrecorded(params):
            result = await row.run(call, params)
        else:
            result = await self._finish(row, call, request, params)
        self._reply(call.peer, request.id, result)
        row.metrics.answered(call.began_ns)

    async def _finish(self, row: Row, call: Call, request: Request, params: Struct) -> Any:
        """Let work that changes something run to its end, whoever still waits for it."""
        if row.keyed and call.idem is not None:
            digest = hashlib.sha256(request.params).digest()
            answer = self._answers.find(call.caller.id, call.idem, request.method, digest)
            if answer is None:
                answer = self._answers.begin(call.caller.id, call.idem, request.method, digest)
                self._work_on(self._answered(row, call, params, answer))
            return await answer.result()
        outcome = await asyncio.shield(
            self._work_on(settled(row.run(call, params), row.method.name))
        )
        if isinstance(outcome, DescartesError):
            raise outcome
        return outcome

    def _work_on(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        if self._group is None:
            work.close()
            raise _stopping()
        task = self._group.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _answered(self, row: Row, call: Call, params: Struct, answer: Answer) -> None:
        outcome = await settled(self._recorded(row, call, params), row.method.name)
        try:
            await self._answers.finish(answer, outcome)
        except Exception as exc:  # the boundary: nobody else would catch it, and it ends the server
            answer.settle(incident(exc, row.method.name))

    async def _recorded(self, row: Row, call: Call, params: Struct) -> Any:
        if not row.records_itself:
            await self._answers.begun()
        return await row.run(call, params)

    async def _stream(self, row: Row, call: Call, request: Request, params: Struct) -> None:
        stream = call.stream
        if stream is None:
            raise ValueError("a stream's method was called without one")
        error: DescartesError | None = None
        deadline_s = request.deadline_s if isinstance(request.deadline_s, float) else None
        try:
            async with asyncio.timeout(deadline_s):
                await row.run(call, params)
        except ConnectionResetError:
            log.debug("stream.client_gone", extra={"stream": stream.id})
            return
        except TimeoutError:
            error = row.too_late(request)
        except DescartesError as exc:
            error = exc
        except Exception as exc:  # the boundary: a bug of ours is answered and logged
            error = incident(exc, row.method.name)
        self._close((stream.peer.route, stream.id), asyncio.current_task())
        if error is not None:
            row.metrics.failures += 1
            self.metrics.errors[error.code] += 1
        if not stream.is_open:
            row.metrics.answered(call.began_ns)
        stream.end(error)

    def _reply(self, peer: Peer, request_id: str | int, result: object) -> None:
        message = codec.encode(Result(v=VERSION, id=request_id, result=result))
        if len(message) > self._max_message_bytes:
            raise ResourceExhaustedError(
                f"the reply has {len(message)} bytes, more than network.max_message_size"
                f" ({self._max_message_bytes})",
                hint="ask for less at once: a smaller limit",
                retryable=False,
            )
        self._release((peer.route, request_id))
        self._send(peer, message)

    def _release(self, key: Key) -> None:
        # What is answered at once was never open.
        if key in self._open:
            self._close(key, asyncio.current_task())

    def _refuse(
        self, row: Row, began_ns: int, peer: Peer, request_id: str | int, error: DescartesError
    ) -> None:
        row.metrics.failures += 1
        self._fail(peer, request_id, error)
        row.metrics.answered(began_ns)

    def _fail(self, peer: Peer, request_id: str | int | None, error: DescartesError) -> None:
        self.metrics.errors[error.code] += 1
        if request_id is not None:
            self._release((peer.route, request_id))
        self._send(peer, codec.failure(request_id, error))


def _stopping() -> UnavailableError:
    return UnavailableError("the server is stopping", hint="ask again when it is back")


async def settled(work: Any, method: str) -> Struct | DescartesError:
    """Run work that nobody may be waiting for any more; its error is its result."""
    try:
        result: Struct = await work
    except DescartesError as exc:
        return exc
    except Exception as exc:  # the boundary: a bug of ours is answered and logged
        return incident(exc, method)
    return result


def incident(exc: BaseException, method: str) -> InternalError:
    """Log a bug of ours under an incident id, and make the error that names it."""
    number = secrets.token_hex(4)
    log.error("internal", extra={"incident": number, "method": method}, exc_info=exc)
    return InternalError(
        f"a bug in the server, incident {number}",
        hint="report it with the server's log lines of this incident",
    )


def _unsent(_peer: Peer, _payload: bytes) -> bool:
    return False
