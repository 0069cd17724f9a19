"""The client for asyncio programs, with the methods of the blocking one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, cast

from msgspec import UNSET, Struct, UnsetType

from descartesd.client.async_methods import AsyncMethods
from descartesd.client.attach import new_writer
from descartesd.client.attach_async import AsyncAttachment
from descartesd.client.closing import AsyncClosing
from descartesd.client.introducing import can_introduce, introduction
from descartesd.client.loop import LoopDriver
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
from descartesd.client.upkeep import DEADLINE_S, Upkeep
from descartesd.client.writing import StdinWrite
from descartesd.errors import DescartesError, UnauthenticatedError, WouldBlockError
from descartesd.keys.profile import Profile
from descartesd.transport.channel import Call, Channel, InboundStream, OnConnection, State
from descartesd.wire.agent import AgentFollow, Written
from descartesd.wire.event import EventFollow
from descartesd.wire.methods import AGENT_OUTPUT, AGENT_WRITE, SERVER_HELLO, Method
from descartesd.wire.server import Empty


class AsyncClient(AsyncClosing, AsyncMethods):
    """A client of one server, for one event loop. Times, keys and errors are those of `Client`."""

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
        self._loop_driver: LoopDriver | None = None
        found = find_profile(profile)
        # Used up once the certificate has been shown.
        self._introduces_as = found if can_introduce(found) else None
        self._upkeep = Upkeep(found)
        self._times = Times.of(found, timeout_s, connect_timeout_s, wait_for_server_s)
        self._channel = Channel(found, self._times.patience, on_connection=on_connection)
        self._is_closed = False
        super().__init__(self)

    @property
    def endpoint(self) -> str:
        """The endpoint connected to, or tried last."""
        return self._channel.endpoint

    @property
    def state(self) -> State:
        """What a call made now would meet; see `Client.state`."""
        return self._channel.state

    @property
    def queued(self) -> int:
        """How many requests wait to be sent."""
        return self._channel.queued

    @property
    def outstanding(self) -> int:
        """How many requests and streams are not over."""
        return self._channel.outstanding

    async def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Call a method and wait for its reply; see `Client.call`."""
        try:
            reply = await self._call(method, request, deadline_s, idem)
        except UnauthenticatedError:
            if not await self._introduce():
                raise
            reply = await self._call(method, request, deadline_s, idem)
        if self._upkeep.is_due:
            await self._see_to_profile()
        return reply

    async def _see_to_profile(self) -> None:
        """Ask whatever keeps the profile of use; its failures are nobody's."""
        steps = self._upkeep.steps()
        try:
            asked = next(steps)
            while True:
                try:
                    reply = await self._call(*asked, DEADLINE_S, None)
                except DescartesError as exc:
                    asked = steps.throw(exc)
                else:
                    asked = steps.send(reply)
        except StopIteration:
            return

    async def _call(
        self, method: Method[Req, Rep], request: Req, deadline_s: float | None, idem: str | None
    ) -> Rep:
        over = asyncio.get_running_loop().create_future()
        call = new_call(
            method,
            request,
            deadline_s=self._times.deadline_s(method, request, deadline_s),
            idem=idem,
            on_over=partial(_resolve, over),
        )
        self._driver.submit(call)
        try:
            await over
        finally:
            self._channel.forget(call)
        return reply_of(method, call)

    async def _introduce(self) -> bool:
        """Show the certificate, once; whether the server has taken it."""
        profile, self._introduces_as = self._introduces_as, None
        if profile is None:
            return False
        try:
            async with AsyncClient(introduction(profile)) as guest:
                await guest.cert.present(certificate=profile.certificate or "")
        except DescartesError:
            # What the client itself was told says more than that this was no help.
            return False
        return True

    async def _be_known(self) -> None:
        """Have the certificate shown, if need be, before what is not asked a second time."""
        if self._introduces_as is not None:
            with suppress(DescartesError):
                await self.call(SERVER_HELLO, Empty())
            self._introduces_as = None

    def stream(
        self, method: Method[Req, Rep], request: Req, *, deadline_s: float | None = None
    ) -> AsyncStream[Rep]:
        """A stream, opened when it is first iterated over; see `Client.stream`."""
        return AsyncStream(self._channel, partial(self._open, method, request, deadline_s))

    async def pipeline(
        self,
        calls: Iterable[tuple[Method[Any, Any], Struct]],
        *,
        deadline_s: float | None = None,
    ) -> list[Any]:
        """Make many calls with many of them under way at once; see `Client.pipeline`."""
        news = asyncio.Event()

        def make(method: Method[Any, Any], request: Struct, on_over: Callable[[], None]) -> Call:
            def tell() -> None:
                on_over()
                news.set()

            allowed_s = self._times.deadline_s(method, request, deadline_s)
            return new_call(method, request, deadline_s=allowed_s, on_over=tell)

        await self._be_known()
        batch = Batch(calls, make)
        try:
            while not batch.is_done:
                batch.refill(self._channel)
                self._driver.kick()
                while not batch.wants_more:
                    news.clear()
                    await news.wait()
        finally:
            batch.forget(self._channel)
        return batch.results()

    async def write(
        self, agent_id: str, data: bytes, *, deadline_s: float | None = None
    ) -> Written:
        """Write bytes of any length to an agent's stdin; see `Client.write`."""
        write = StdinWrite(agent_id, data)
        allowed_s = self._times.deadline_s(AGENT_WRITE, write.request(), deadline_s)
        clock = asyncio.get_running_loop().time
        until = None if allowed_s is None else clock() + allowed_s
        while True:
            left_s = None if until is None else until - clock()
            try:
                written = await self.call(AGENT_WRITE, write.request(), deadline_s=left_s)
                pause_s = write.note(written)
            except WouldBlockError:
                pause_s = write.pause_s()
            if write.is_done:
                return write.outcome()
            if until is not None and clock() + pause_s > until:
                raise write.would_block()
            if pause_s:
                await asyncio.sleep(pause_s)

    def attach(
        self,
        agent_id: str,
        *,
        watch: bool = False,
        steal: bool = False,
        deadline_s: float | None = None,
    ) -> AsyncAttachment:
        """Attach to an agent, when it is first iterated over; see `Client.attach`."""
        return AsyncAttachment(
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

    async def aclose(self) -> None:
        """Close the connection; calls under way in other tasks fail with UnavailableError."""
        if self._is_closed or not self._channel.is_here:
            return
        self._is_closed = True
        if self._loop_driver is not None:
            self._loop_driver.close()
        self._channel.close()
        await asyncio.to_thread(self._channel.finish)

    def __del__(self) -> None:
        # A loop that runs on holds the channel by its readers, with nobody to use it.
        if self._loop_driver is not None and not self._is_closed and self._channel.is_here:
            self._loop_driver.abandon()

    @property
    def _driver(self) -> LoopDriver:
        if self._loop_driver is None:
            self._loop_driver = LoopDriver(self._channel)
        return self._loop_driver

    async def _open(
        self,
        method: Method[Any, Any],
        request: Struct,
        deadline_s: float | None,
        on_news: Callable[[], None],
    ) -> tuple[InboundStream, LoopDriver]:
        await self._be_known()
        if isinstance(request, AgentFollow):
            chunks = [await self.call(AGENT_OUTPUT, each) for each in tail_requests(request)]
            request = from_tail(request, chunks)
        elif is_numbered_later(request):
            hello = await self.call(SERVER_HELLO, Empty())
            request = EventFollow(since=hello.last_event)
        inbound = InboundStream(
            method,
            request,
            timeout_s=self._times.timeout_s,
            deadline_s=deadline_s,
            on_news=on_news,
        )
        self._driver.submit(inbound)
        return inbound, self._driver


# Opens a stream that calls back at every news.
_Open = Callable[[Callable[[], None]], Awaitable[tuple[InboundStream, LoopDriver]]]


class AsyncStream(AsyncClosing, Generic[Rep]):
    """Items of a stream, to be iterated over by one task; ends early by `aclose`."""

    def __init__(self, channel: Channel, open_: _Open) -> None:
        self._channel = channel
        self._open = open_
        self._opened: tuple[InboundStream, LoopDriver] | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Rep]:
        return self

    async def __anext__(self) -> Rep:
        if self._opened is None:
            self._opened = await self._open(self._news.set)
        inbound, driver = self._opened
        while True:
            self._news.clear()
            item = self._channel.next_item(inbound)
            if item is not None:
                driver.kick()
                return cast("Rep", item)
            if not inbound.has_news:
                await self._news.wait()
            elif inbound.error is not None:
                raise inbound.error
            else:
                raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the stream; the server stops sending."""
        if self._opened is not None and self._channel.is_here:
            inbound, driver = self._opened
            self._channel.forget(inbound)
            driver.kick()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
