"""The methods about the server itself and about open streams."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
from msgspec.structs import replace

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.starting import DRAINING
from descartesd.methods.call import Call, Handler
from descartesd.methods.policy import Caller
from descartesd.methods.sight import reach
from descartesd.transport.streams import Streams
from descartesd.wire import codec
from descartesd.wire import server as wire
from descartesd.wire.envelope import CURVE_OVERHEAD, VERSION
from descartesd.wire.methods import METHODS, Method

log = logging.getLogger(__name__)

# An introduction holds so long for who asks again, unless something happens.
_FRESH_S = 0.01

FEATURES = [
    "streams",
    "events",
    "idempotency",
    "writer-offsets",
    "unix-identity",
    "attach",
    "backends",
    "chat",
    "secrets",
    "audit",
]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says of itself; sizes in bytes."""

    server_id: str
    version: str
    max_request_bytes: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is going to change for a client; times are seconds since the epoch."""

    next_server_key: str | None = None
    next_server_key_at: int | None = None
    renew: bool = False


@dataclass(frozen=True, slots=True)
class Reports:
    """What answers `server.health` and `server.stats`, and what a caller has to see to."""

    health: Callable[[], wire.ServerHealth]
    stats: Callable[[], wire.ServerStats]
    upkeep: Callable[[Caller], Upkeep]


class ServerMethods:
    """One function per method."""

    def __init__(
        self, facts: ServerFacts, reports: Reports, book: Book, fleet: Fleet, streams: Streams
    ) -> None:
        self._facts = facts
        self._limits = wire.ServerLimits(
            max_request_bytes=facts.max_request_bytes - CURVE_OVERHEAD,
            max_message_bytes=facts.max_message_bytes,
        )
        self._reports = reports
        self._book = book
        self._fleet = fleet
        self._streams = streams
        # The introduction told last: to whom, when, up to which event, and its bytes.
        self._told: tuple[Caller | None, float, int, msgspec.Raw] = None, 0.0, 0, msgspec.Raw()

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {
            "server.hello": self.hello,
            "server.health": self.health,
            "server.stats": self.stats,
            "server.drain": self.drain,
            "server.methods": self.methods,
            "stream.credit": self.credit,
            "stream.cancel": self.cancel,
        }

    def hello(self, call: Call, _params: wire.Empty) -> msgspec.Raw:
        now = time.time()
        caller, at, event, told = self._told
        if (
            caller is not call.caller
            or event != self._book.journal.last
            or not 0 <= now - at < _FRESH_S
        ):
            told = msgspec.Raw(codec.encode(self._hello(call, now)))
            self._told = call.caller, now, self._book.journal.last, told
        return told

    def _hello(self, call: Call, now: float) -> wire.ServerHello:
        upkeep = self._reports.upkeep(call.caller)
        return wire.ServerHello(
            server_id=self._facts.server_id,
            version=self._facts.version,
            protocol=VERSION,
            features=FEATURES,
            backends=list(self._fleet.starts.backends),
            limits=self._limits,
            identity=wire.IdentityInfo(
                id=call.caller.id, role=call.caller.role, name=call.caller.name
            ),
            time=now,
            last_event=self._book.journal.last,
            next_server_key=upkeep.next_server_key,
            next_server_key_at=upkeep.next_server_key_at,
            renew=upkeep.renew,
        )

    def health(self, call: Call, _params: wire.Empty) -> wire.ServerHealth:
        found = self._reports.health()
        if reach(call.caller.grants, "server.health") == "any":
            return found
        # A stray is a process that somebody's agent has left.
        return replace(
            found,
            agents=self._book.roster.counts(call.caller.id),
            keeper=replace(found.keeper, strays=[]),
        )

    def stats(self, call: Call, _params: wire.Empty) -> wire.ServerStats:
        found = self._reports.stats()
        if reach(call.caller.grants, "server.stats") == "any":
            return found
        return replace(found, agents=self._book.roster.counts(call.caller.id))

    def drain(self, _call: Call, params: wire.ServerDrain) -> wire.Drained:
        # One that stops goes on refusing.
        if self._fleet.starts.closed in (None, DRAINING):
            self._fleet.starts.closed = None if params.undo else DRAINING
            log.info("server.draining", extra={"undone": params.undo})
        return wire.Drained(
            draining=self._fleet.starts.closed is not None,
            alive=self._book.alive,
            queued=self._book.queued,
        )

    def methods(self, _call: Call, _params: wire.Empty) -> wire.MethodTable:
        return self._table

    @cached_property
    def _table(self) -> wire.MethodTable:
        # The schemas take as long as hundreds of requests, and never change.
        return wire.MethodTable(methods=[describe(method) for method in METHODS.values()])

    def credit(self, call: Call, params: wire.StreamCredit) -> wire.Done:
        self._streams.grant(call.peer, params.stream, params.items, params.bytes)
        return wire.Done()

    def cancel(self, call: Call, params: wire.StreamCancel) -> wire.Done:
        self._streams.cancel(call.peer, params.stream)
        return wire.Done()


def describe(method: Method[Any, Any]) -> wire.MethodInfo:
    """One row of the table as clients see it."""
    return wire.MethodInfo(
        name=method.name,
        summary=method.summary,
        permission=method.permission,
        resend=method.resend,
        stream=method.stream,
        since=method.since,
        request=msgspec.json.schema(method.request),
        reply=msgspec.json.schema(method.reply),
    )
