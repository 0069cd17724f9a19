"""Takes a request from its bytes to its answer: decode, identify, authorise, decode, call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from descartesd.errors import (
    DeadlineExceededError,
    DescartesError,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)
from descartesd.methods.asked import Asked, asked_of
from descartesd.methods.authorizing import Authorizer
from descartesd.methods.call import Call, Handler, OnRefused, about, nobody_asks
from descartesd.methods.idempotency import Answer, Answers
from descartesd.methods.limiting import Limits
from descartesd.methods.outcomes import incident, settled
from descartesd.methods.pending import Pending, PendingRequests
from descartesd.methods.policy import Policy, refusal
from descartesd.methods.rows import Row, rows_of, unknown
from descartesd.methods.sight import check_unchanged
from descartesd.observe.metrics import RequestMetrics
from descartesd.transport.server import Peer, Send
from descartesd.transport.shed import Shed
from descartesd.transport.streams import Streams
from descartesd.transport.unread import LARGE, Unread
from descartesd.wire import codec
from descartesd.wire.envelope import Request

log = logging.getLogger(__name__)

T = TypeVar("T")


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
        self._policy, self._identify = policy, policy.identify
        self._answers = answers
        self._request_timeout_s = request_timeout_s
        self._most = max_message_bytes
        self._pending = PendingRequests()
        self._work: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._is_stopping = False
        self._send: Send = _unsent
        self.unread = Unread()
        self.streams = Streams(self._send_now, self.unread)
        self.shed = Shed(self._send_now)
        self.metrics = RequestMetrics()
        self.limits = Limits(self.streams, self._send_now, self.metrics.unknown)
        # Plugins that may refuse what a role allows; None while there are none.
        self.authorizer: Authorizer | None = None
        # Told of each request that was not let in.
        self.on_refused: OnRefused = nobody_asks

    def register(self, handlers: Mapping[str, Handler]) -> None:
        """Take the function of every method; raises ValueError when one is missing."""
        self._rows = rows_of(handlers, self.metrics)

    def start(self, group: asyncio.TaskGroup, send: Send) -> None:
        """Begin to answer; waiting requests run as tasks of `group`."""
        self._group = group
        self._send = send

    def refuse_changes(self) -> None:
        """From now on answer only what changes nothing."""
        self._is_stopping = True

    async def finish(self, *, work_s: float, answers_s: float) -> None:
        """Wait for recorded work to be done, then for what is open to be answered, so long each."""
        if self._work:
            await asyncio.wait(tuple(self._work), timeout=work_s)
        tasks = self._pending.tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=answers_s)

    def stop(self, *, silently: bool = False) -> None:
        """End: what still waits is told that the server is stopping, unless the next one answers.

        `silently`, its client asks that one, as after a crash.
        """
        self._group = None
        if silently:
            self._send = _unsent
        self.streams.end_all(_stopping())
        for pending in self._pending.but_streams():
            self._break_off(pending, _stopping())
        for task in self._work:
            task.cancel()
        self.shed.close()
        self.limits.close()

    def _send_now(self, peer: Peer, payload: bytes, is_item: bool = False) -> bool | None:
        return self._send(peer, payload, is_item)

    def on_request(self, peer: Peer, payload: bytes) -> None:
        """Work on one request."""
        began_ns = perf_counter_ns()
        if peer.fd in self.shed.peers:
            self.shed.add(peer, [codec.read_id(payload)])
            return
        # Before anything is read: what nobody can make sense of counts as well.
        meter = self._policy.meters.get(peer.user_id)
        if meter is not None and not self.limits.admit(meter, peer, payload, began_ns):
            return
        try:
            request = codec.decode_request(payload)
        except DescartesError as exc:
            self._fail(peer, codec.read_id(payload), exc)
            return
        row = self._rows.get(request.method)
        if row is None:
            self._fail(peer, request.id, unknown(request.method, self._rows))
            return
        row.metrics.requests += 1
        try:
            call, params = self._admit(row, peer, request, began_ns)
            waits = row.waits
            if self.authorizer is not None:
                # A plugin that has to be asked is waited for, however quick the method is.
                waits |= not self.authorizer.is_allowed(call.caller, request.method, params)
            if waits or (peer.fd in self.unread.windows and self.unread.is_full(peer.fd)):
                self._begin(row, call, request, params, len(payload))
            else:
                # What is answered at once was never open.
                self._send(peer, codec.success(request.id, row.handler(call, params), self._most))
                row.metrics.answered(began_ns)
        except DescartesError as exc:
            self.on_refused(peer, request.method, exc, request.trace)
            self._refuse(row, began_ns, peer, request.id, exc)
        except Exception as exc:  # the boundary: a bug of ours is answered and logged
            error = incident(exc, request.method, about(peer.user_id, request.trace))
            self._refuse(row, began_ns, peer, request.id, error)

    @property
    def open_requests(self) -> int:
        """Those that wait for their answer, streams among them."""
        return len(self._pending)

    def on_disconnected(self, fd: int) -> None:
        """A connection closed: what only it was waiting for ends."""
        self.streams.drop_connection(fd)
        self.shed.drop(fd)
        for pending in self._pending.of_connection(fd):
            pending.task.cancel()

    def tidy(self) -> None:
        """End what is open for who is let in no longer, and serve again who reads again."""
        self._policy.refresh()
        self.streams.expel(self._policy.identify, self.on_refused)
        for pending in self._pending.but_streams():
            try:
                self._policy.identify(pending.call.peer.user_id)
            except UnauthenticatedError as error:
                call = pending.call
                self.on_refused(call.peer, pending.row.method.name, error, call.trace)
                self._break_off(pending, error)
        self.shed.settle()

    def _check_granted(self, row: Row, call: Call, params: Struct) -> None:
        """Raise DescartesError when a stream was opened under greater rights than now."""
        caller = self._policy.identify(call.peer.user_id)
        if caller.grants is not call.caller.grants:
            check_unchanged(call.caller, caller.grants, row.method)
        if self.authorizer is not None:
            self.authorizer.recheck(caller, row.method.name, params)

    def on_shed(self, peer: Peer, payload: bytes) -> None:
        """A peer does not read: its streams end and its requests are dropped until it does."""
        unanswered = self._pending.of_route(peer.route)
        self.shed.add(peer, [codec.read_id(payload), *(pending.key[1] for pending in unanswered)])
        for pending in unanswered:
            pending.task.cancel()

    def _admit(self, row: Row, peer: Peer, request: Request, began_ns: int) -> tuple[Call, Struct]:
        caller = self._identify(peer.user_id)
        if request.method not in caller.grants.methods:
            raise refusal(caller, row.method)
        if row.method.stream and peer.delimited:
            raise InvalidArgumentError(
                f"{request.method} is a stream, which a REQ socket cannot receive",
                hint="use a DEALER socket and send the request without an empty frame before it",
            )
        params = row.decode(request.params)
        if self._is_stopping and not row.is_harmless(params):
            raise _stopping()
        idem = request.idem if isinstance(request.idem, str) else None
        return Call(caller, peer, began_ns, idem, None, self._identify, request.trace), params

    def _begin(self, row: Row, call: Call, request: Request, params: Struct, size: int) -> None:
        key = (call.peer.route, request.id)
        self._pending.admit(key, size, call.peer.user_id)
        if self._group is None:
            raise _stopping()
        asked = asked_of(row, call, request, self._answers)
        pending = Pending(key, row, call, size)
        name = f"{request.method} {request.id}"
        if row.method.stream:
            meter = call.caller.meter
            if meter is not None:
                meter.open_stream()
            stream = self.streams.make(call.peer, request.id, request.credit)
            stream.on_open = partial(row.metrics.answered, call.began_ns)
            stream.check = partial(self._check_granted, row, call, params)
            pending.call = replace(call, stream=stream)
            pending.task = self._group.create_task(self._stream(pending, asked, params), name=name)
            if meter is not None:
                pending.task.add_done_callback(lambda _: meter.close_stream())
            # At once: its credit and its end may be the next messages.
            self.streams.add(stream, pending.task)
        else:
            pending.task = self._group.create_task(self._wait(pending, asked, params), name=name)
        self._pending.add(pending)

    def _break_off(self, pending: Pending, error: DescartesError) -> None:
        """Answer in the place of the task, which may not even have begun."""
        pending.task.cancel()
        self._pending.close(pending)
        self._refuse(pending.row, pending.call.began_ns, pending.call.peer, pending.key[1], error)

    async def _wait(self, pending: Pending, asked: Asked, params: Struct) -> None:
        row, call = pending.row, pending.call
        limit_s = row.limit_s(asked.deadline_s, self._request_timeout_s)
        # As asyncio.timeout(), at a third of its cost.
        later = asyncio.get_running_loop().call_later
        timer = None if limit_s is None else later(limit_s, pending.end_late)
        error: DescartesError
        try:
            if self.authorizer is not None:
                await self._authorize(row, call, params)
            await self._answer(pending, asked, params)
            return
        except asyncio.CancelledError:
            if not pending.is_late:
                raise
            error = row.too_late(asked.deadline_s)
        except DescartesError as exc:
            # Under a key it is told as it was recorded.
            if isinstance(exc, DeadlineExceededError) and asked.digest is None:
                exc.retryable = row.method.resend != "never"
            error = exc
        except Exception as exc:  # the boundary: a bug of ours is answered and logged
            error = incident(exc, row.method.name, call.about())
        finally:
            if timer is not None:
                timer.cancel()
        self._pending.close(pending)
        self._refuse(row, call.began_ns, call.peer, asked.id, error)
        # It knows this frame: known to it, too, it would keep the whole request.
        del error

    async def _authorize(self, row: Row, call: Call, params: Struct) -> None:
        """Wait for what plugins have to say, if any is to be asked."""
        if self.authorizer is None:
            return
        try:
            await self.authorizer.allow(call.caller, row.method.name, params)
        except DescartesError as exc:
            self.on_refused(call.peer, row.method.name, exc, call.trace)
            raise

    async def _answer(self, pending: Pending, asked: Asked, params: Struct) -> None:
        row, call = pending.row, pending.call
        room = row.room(params)
        if room:
            # Not before there is room: nothing that large is kept for who does not read.
            async with self.unread.room(call.peer.fd, room):
                answer = codec.success(
                    asked.id, await self._result(row, call, asked, params), self._most
                )
                self._deliver(pending, answer)
            return
        answer = codec.success(asked.id, await self._result(row, call, asked, params), self._most)
        if len(answer) < LARGE:
            self._deliver(pending, answer)
            return
        self._pending.resize(pending, len(answer))
        async with self.unread.room(call.peer.fd, len(answer)):
            self._deliver(pending, answer)

    def _deliver(self, pending: Pending, answer: bytes) -> None:
        self._pending.close(pending)
        self._send(pending.call.peer, answer)
        pending.row.metrics.answered(pending.call.began_ns)

    async def _result(self, row: Row, call: Call, asked: Asked, params: Struct) -> Any:
        if not row.waits:
            return row.handler(call, params)
        if row.is_unrecorded(params):
            return await row.carry_out(call, params, self.on_refused)
        return await self._finish(row, call, asked, params)

    async def _finish(self, row: Row, call: Call, asked: Asked, params: Struct) -> Any:
        """Let work that changes something run to its end, whoever still waits for it."""
        method = row.method.name
        if asked.digest is not None and call.idem is not None:
            answer = self._answers.find(call.caller.id, call.idem, method, asked.digest)
            if answer is None:
                answer = self._answers.begin(call.caller.id, call.idem, method, asked.digest)
                self._work_on(self._answered(row, call, params, answer))
            return await answer.result()
        work = settled(row.handler(call, params), method, call)
        outcome = await asyncio.shield(self._work_on(work))
        try:
            if isinstance(outcome, DescartesError):
                raise outcome
            return outcome
        finally:
            # An error that knows this frame and is known to it would keep the whole request.
            del outcome

    def _work_on(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        if self._group is None:
            work.close()
            raise _stopping()
        task = self._group.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _answered(self, row: Row, call: Call, params: Struct, answer: Answer) -> None:
        outcome = await settled(self._recorded(row, call, params), row.method.name, call)
        try:
            await self._answers.finish(answer, outcome)
        except Exception as exc:  # the boundary: nobody else would catch it, and it ends the server
            answer.settle(incident(exc, row.method.name, call.about()))

    async def _recorded(self, row: Row, call: Call, params: Struct) -> Any:
        if not row.records_itself:
            await self._answers.begun()
        return await row.handler(call, params)

    async def _stream(self, pending: Pending, asked: Asked, params: Struct) -> None:
        row, call = pending.row, pending.call
        stream = call.stream
        if stream is None:
            raise ValueError("a stream's method was called without one")
        error: DescartesError | None = None
        try:
            async with asyncio.timeout(asked.deadline_s):
                await self._authorize(row, call, params)
                await row.carry_out(call, params, self.on_refused)
        except ConnectionResetError:
            log.debug("stream.client_gone", extra={"stream": stream.id})
            return
        except TimeoutError:
            error = row.too_late(asked.deadline_s)
        except DescartesError as exc:
            error = exc
        except Exception as exc:  # the boundary: a bug of ours is answered and logged
            error = incident(exc, row.method.name, call.about())
        self._pending.close(pending)
        if error is not None:
            row.metrics.failed(error.code, is_answered=stream.is_open)
        if not stream.is_open:
            row.metrics.answered(call.began_ns)
        stream.end(error)

    def _refuse(
        self, row: Row, began_ns: int, peer: Peer, request_id: str | int, error: DescartesError
    ) -> None:
        row.metrics.failed(error.code)
        self._send(peer, codec.failure(request_id, error))
        row.metrics.answered(began_ns)

    def _fail(self, peer: Peer, request_id: str | int | None, error: DescartesError) -> None:
        self.metrics.unknown[error.code] += 1
        self._send(peer, codec.failure(request_id, error))


def _stopping() -> UnavailableError:
    return UnavailableError("the server is stopping", hint="ask again when it is back")


def _unsent(_peer: Peer, _payload: bytes, _is_item: bool = False) -> bool | None:
    return False
