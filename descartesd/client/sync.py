"""The client for ordinary programs: blocking calls, usable from several threads at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, cast

from msgspec import UNSET, Struct, UnsetType

from descartesd.client.attach import Attachment, new_writer
from descartesd.client.closing import Closing
from descartesd.client.introducing import can_introduce, introduction
from descartesd.client.profiles import find_profile
from descartesd.client.requests import (
    Batch,
    Rep,
    Req,
    Times,
    from_tail,
    is_numbered_later,
    new_call,
    reply_of,
    tail_requests,
)
from descartesd.client.sync_methods import Methods
from descartesd.client.turns import Turns
from descartesd.client.upkeep import DEADLINE_S, Upkeep
from descartesd.client.writing import StdinWrite
from descartesd.errors import DescartesError, UnauthenticatedError, WouldBlockError
from descartesd.keys.profile import Profile
from descartesd.transport.channel import Call, Channel, InboundStream, OnConnection, State
from descartesd.wire.agent import AgentFollow, Written
from descartesd.wire.event import EventFollow
from descartesd.wire.methods import AGENT_OUTPUT, AGENT_WRITE, SERVER_HELLO, Method
from descartesd.wire.server import Empty


class Client(Closing, Methods):
    """A client of one server. It connects when it is first used, and again when it must.

    All times are seconds. `timeout_s` bounds each call (None: none does); without it the profile
    decides. `connect_timeout_s` bounds the wait for a connection, and `wait_for_server_s`, when it
    is longer, the wait for a server nobody has started yet. Every call may raise any error of
    `descartesd.errors` the server sends, and of its own UnavailableError (nobody answers),
    UnauthenticatedError (the key is refused, or the server's is wrong), DeadlineExceededError,
    ResourceExhaustedError (too many requests wait for a connection) and InvalidArgumentError.

    `on_connection` is called with "up" or "lost" and the endpoint whenever the connection has come
    or gone, by whichever thread finds out; it must return soon and not use the client.
    """

    def __init__(
        self,
        profile: Profile | str | os.PathLike[str] | None = None,
        *,
        timeout_s: float | UnsetType | None = UNSET,
        connect_timeout_s: float | None = None,
        wait_for_server_s: float | None = None,
        on_connection: OnConnection | None = None,
    ) -> None:
        """Choose the server as `find_profile` says; raises as it does."""
        found = find_profile(profile)
        # Used up once the certificate has been shown.
        self._introduces_as = found if can_introduce(found) else None
        self._upkeep = Upkeep(found)
        self._times = Times.of(found, timeout_s, connect_timeout_s, wait_for_server_s)
        self._channel = Channel(found, self._times.patience, on_connection=on_connection)
        self._turns = Turns(self._channel)
        self._is_closed = False
        super().__init__(self)

    @property
    def endpoint(self) -> str:
        """The endpoint connected to, or tried last."""
        return self._channel.endpoint

    @property
    def state(self) -> State:
        """What a call made now would meet.

        `idle`: no connection, one would be made · `connecting` · `up` · `circuit_open`: it would
        fail at once, since nobody has answered for long · `closed`
        """
        with self._turns.lock:
            if not self._is_closed:
                self._turns.touch()
            return self._channel.state

    @property
    def queued(self) -> int:
        """How many requests wait to be sent."""
        return self._channel.queued

    @property
    def outstanding(self) -> int:
        """How many requests and streams are not over."""
        return self._channel.outstanding

    def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Call a method and wait for its reply.

        `deadline_s` replaces the client's time-out (infinity: wait for ever). `idem` is the key
        under which the server does this once, however often it is sent; where one is needed and
        none is given, a random one is used.
        """
        try:
            reply = self._call(method, request, deadline_s, idem)
        except UnauthenticatedError:
            if not self._introduce():
                raise
            reply = self._call(method, request, deadline_s, idem)
        if self._upkeep.is_due:
            self._see_to_profile()
        return reply

    def _see_to_profile(self) -> None:
        """Ask whatever keeps the profile of use; its failures are nobody's."""
        steps = self._upkeep.steps()
        try:
            asked = next(steps)
            while True:
                try:
                    reply = self._call(*asked, DEADLINE_S, None)
                except DescartesError as exc:
                    asked = steps.throw(exc)
                else:
                    asked = steps.send(reply)
        except StopIteration:
            return

    def _call(
        self, method: Method[Req, Rep], request: Req, deadline_s: float | None, idem: str | None
    ) -> Rep:
        allowed_s = self._times.deadline_s(method, request, deadline_s)
        call = new_call(method, request, deadline_s=allowed_s, idem=idem)
        with self._turns.lock:
            self._channel.submit(call)
            try:
                self._turns.wait(lambda: call.is_over)
            finally:
                self._channel.forget(call)
        return reply_of(method, call)

    def _introduce(self) -> bool:
        """Show the certificate, once; whether the server has taken it."""
        profile, self._introduces_as = self._introduces_as, None
        if profile is None:
            return False
        try:
            with Client(introduction(profile)) as guest:
                guest.cert.present(certificate=profile.certificate or "")
        except DescartesError:
            # What the client itself was told says more than that this was no help.
            return False
        return True

    def _be_known(self) -> None:
        """Have the certificate shown, if need be, before what is not asked a second time."""
        if self._introduces_as is not None:
            with suppress(DescartesError):
                self.call(SERVER_HELLO, Empty())
            self._introduces_as = None

    def stream(
        self, method: Method[Req, Rep], request: Req, *, deadline_s: float | None = None
    ) -> Stream[Rep]:
        """Open a stream; it ends after `deadline_s` at the latest, with DeadlineExceededError."""
        self._be_known()
        if isinstance(request, AgentFollow):
            chunks = [self.call(AGENT_OUTPUT, each) for each in tail_requests(request)]
            request = cast("Req", from_tail(request, chunks))
        elif is_numbered_later(request):
            hello = self.call(SERVER_HELLO, Empty())
            request = cast("Req", EventFollow(since=hello.last_event))
        inbound = InboundStream(
            method, request, timeout_s=self._times.timeout_s, deadline_s=deadline_s
        )
        with self._turns.lock:
            self._channel.submit(inbound)
            self._turns.touch()
        return Stream(self._channel, self._turns, inbound)

    def pipeline(
        self,
        calls: Iterable[tuple[Method[Any, Any], Struct]],
        *,
        deadline_s: float | None = None,
    ) -> list[Any]:
        """Make many calls with many of them under way at once.

        Returns, in their order, each reply, or the error (not raised) where there is none.
        """

        def make(method: Method[Any, Any], request: Struct, on_over: Callable[[], None]) -> Call:
            allowed_s = self._times.deadline_s(method, request, deadline_s)
            return new_call(method, request, deadline_s=allowed_s, on_over=on_over)

        self._be_known()
        batch = Batch(calls, make)
        with self._turns.lock:
            try:
                while not batch.is_done:
                    batch.refill(self._channel)
                    self._turns.wait(lambda: batch.wants_more)
            finally:
                batch.forget(self._channel)
        return batch.results()

    def write(self, agent_id: str, data: bytes, *, deadline_s: float | None = None) -> Written:
        """Write bytes of any length to an agent's stdin, each exactly once.

        Waits while the agent does not read; raises WouldBlockError when that lasts until the
        deadline, its details telling how many bytes were taken.
        """
        write = StdinWrite(agent_id, data)
        allowed_s = self._times.deadline_s(AGENT_WRITE, write.request(), deadline_s)
        until = None if allowed_s is None else time.monotonic() + allowed_s
        while True:
            left_s = None if until is None else until - time.monotonic()
            try:
                pause_s = write.note(self.call(AGENT_WRITE, write.request(), deadline_s=left_s))
            except WouldBlockError:
                pause_s = write.pause_s()
            if write.is_done:
                return write.outcome()
            if until is not None and time.monotonic() + pause_s > until:
                raise write.would_block()
            if pause_s:
                time.sleep(pause_s)

    def attach(
        self,
        agent_id: str,
        *,
        watch: bool = False,
        steal: bool = False,
        deadline_s: float | None = None,
    ) -> Attachment:
        """Attach to an agent: read what it writes from its last screenful on, and write to it.

        One client at a time may; while it does, another gets ConflictError from the first chunk
        on, unless it only watches, or steals: then the other's chunks end with ConflictError.
        """
        return Attachment(
            self,
            agent_id,
            self.agent.attach(
                id=agent_id,
                writer=None if watch else new_writer(),
                steal=steal,
                deadline_s=deadline_s,
            ),
            watch=watch,
        )

    def close(self) -> None:
        """Close the connection; calls under way in other threads fail with UnavailableError.

        In a process forked since it was made there is nothing to close.
        """
        if not self._channel.is_here:
            return
        with self._turns.lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._channel.close()
            self._turns.close()
        self._channel.finish()


class Stream(Closing, Generic[Rep]):
    """Items of an open stream, to be iterated over by one thread; ends early by `close`."""

    def __init__(self, channel: Channel, turns: Turns, inbound: InboundStream) -> None:
        self._channel = channel
        self._turns = turns
        self._inbound = inbound

    def __iter__(self) -> Iterator[Rep]:
        return self

    def __next__(self) -> Rep:
        with self._turns.lock:
            while True:
                item = self._channel.next_item(self._inbound)
                if item is not None:
                    self._turns.touch()
                    return cast("Rep", item)
                if not self._inbound.has_news:
                    self._turns.wait(lambda: self._inbound.has_news)
                elif self._inbound.error is not None:
                    raise self._inbound.error
                else:
                    raise StopIteration

    def close(self) -> None:
        """End the stream; the server stops sending."""
        if not self._channel.is_here:
            return
        with self._turns.lock:
            self._channel.forget(self._inbound)
            self._turns.touch()
