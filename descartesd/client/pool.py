"""Several connections used as one client: each request takes the least busy that is up.

Worth it over a network with latency and much output: one connection carries no more than its TCP
window per round trip, and everything else waits in line behind that. For mere calls one client is
faster, from however many threads or tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from descartesd.client.aio import AsyncClient, AsyncStream
from descartesd.client.async_methods import AsyncMethods
from descartesd.client.attach import Attachment
from descartesd.client.attach_async import AsyncAttachment
from descartesd.client.closing import AsyncClosing, Closing
from descartesd.client.requests import Rep, Req
from descartesd.client.sync import Client, Stream
from descartesd.client.sync_methods import Methods
from descartesd.errors import InvalidArgumentError
from descartesd.transport.channel import State
from descartesd.wire.agent import Written
from descartesd.wire.methods import Method


class ClientPool(Closing, Methods):
    """Clients of one server as one; closed, it closes them. Any thread may use it."""

    def __init__(self, clients: Iterable[Client]) -> None:
        """Take these: `ClientPool(Client(profile) for _ in range(4))`."""
        self._clients = _some(clients)
        super().__init__(self)

    def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Call a method and wait for its reply; see `Client.call`."""
        return _best(self._clients).call(method, request, deadline_s=deadline_s, idem=idem)

    def stream(
        self, method: Method[Req, Rep], request: Req, *, deadline_s: float | None = None
    ) -> Stream[Rep]:
        """Open a stream; see `Client.stream`."""
        return _best(self._clients).stream(method, request, deadline_s=deadline_s)

    def pipeline(
        self,
        calls: Iterable[tuple[Method[Any, Any], Struct]],
        *,
        deadline_s: float | None = None,
    ) -> list[Any]:
        """Make many calls over one of the connections; see `Client.pipeline`."""
        return _best(self._clients).pipeline(calls, deadline_s=deadline_s)

    def write(self, agent_id: str, data: bytes, *, deadline_s: float | None = None) -> Written:
        """Write bytes of any length to an agent's stdin; see `Client.write`."""
        return _best(self._clients).write(agent_id, data, deadline_s=deadline_s)

    def attach(
        self,
        agent_id: str,
        *,
        watch: bool = False,
        steal: bool = False,
        deadline_s: float | None = None,
    ) -> Attachment:
        """Attach to an agent over one of the connections; see `Client.attach`."""
        return _best(self._clients).attach(
            agent_id, watch=watch, steal=steal, deadline_s=deadline_s
        )

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()


class AsyncClientPool(AsyncClosing, AsyncMethods):
    """Clients of one server as one, for one event loop; closed, it closes them."""

    def __init__(self, clients: Iterable[AsyncClient]) -> None:
        """Take these: `AsyncClientPool(AsyncClient(profile) for _ in range(4))`."""
        self._clients = _some(clients)
        super().__init__(self)

    async def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Call a method and wait for its reply; see `Client.call`."""
        best = _best(self._clients)
        return await best.call(method, request, deadline_s=deadline_s, idem=idem)

    def stream(
        self, method: Method[Req, Rep], request: Req, *, deadline_s: float | None = None
    ) -> AsyncStream[Rep]:
        """A stream, opened when it is first iterated over; see `Client.stream`."""
        return _best(self._clients).stream(method, request, deadline_s=deadline_s)

    async def pipeline(
        self,
        calls: Iterable[tuple[Method[Any, Any], Struct]],
        *,
        deadline_s: float | None = None,
    ) -> list[Any]:
        """Make many calls over one of the connections; see `Client.pipeline`."""
        return await _best(self._clients).pipeline(calls, deadline_s=deadline_s)

    async def write(
        self, agent_id: str, data: bytes, *, deadline_s: float | None = None
    ) -> Written:
        """Write bytes of any length to an agent's stdin; see `Client.write`."""
        return await _best(self._clients).write(agent_id, data, deadline_s=deadline_s)

    def attach(
        self,
        agent_id: str,
        *,
        watch: bool = False,
        steal: bool = False,
        deadline_s: float | None = None,
    ) -> AsyncAttachment:
        """Attach to an agent over one of the connections; see `Client.attach`."""
        return _best(self._clients).attach(
            agent_id, watch=watch, steal=steal, deadline_s=deadline_s
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(client.aclose() for client in self._clients))


class _Member(Protocol):
    @property
    def state(self) -> State: ...

    @property
    def outstanding(self) -> int: ...


_AnyClient = TypeVar("_AnyClient", bound=_Member)


def _some(clients: Iterable[_AnyClient]) -> Sequence[_AnyClient]:
    taken = tuple(clients)
    if not taken:
        raise InvalidArgumentError("a pool needs at least one client")
    return taken


# What was never used yet, or may be tried again, is as good as what is up.
_BADNESS: dict[State, int] = {"up": 0, "idle": 0, "connecting": 1, "circuit_open": 2, "closed": 3}


def _best(clients: Sequence[_AnyClient]) -> _AnyClient:
    return min(clients, key=_badness)


def _badness(client: _Member) -> tuple[int, int]:
    return _BADNESS[client.state], client.outstanding
