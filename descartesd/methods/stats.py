"""Gathers what has been counted since the server started."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.methods.dispatch import Dispatcher
from descartesd.observe.metrics import BOUNDS_S, Traffic
from descartesd.wire import server as wire


@dataclass(frozen=True, slots=True)
class Stats:
    """Reads the parts that count; it changes none of them."""

    server_id: str
    book: Book
    fleet: Fleet
    dispatcher: Dispatcher
    traffic: Traffic
    started_at: float = field(default_factory=time.time)
    _started: float = field(default_factory=time.monotonic)

    def report(self) -> wire.ServerStats:
        """Answer `server.stats`; methods nobody has asked for are left out."""
        requests = self.dispatcher.metrics
        errors = requests.errors
        spawns = self.fleet.starts.counts
        journal = self.book.journal
        return wire.ServerStats(
            server_id=self.server_id,
            started_at=self.started_at,
            uptime_s=round(time.monotonic() - self._started, 3),
            requests=requests.requests,
            failures=errors.total(),
            errors=dict(errors),
            bytes_received=self.traffic.bytes_received,
            bytes_sent=self.traffic.bytes_sent,
            clients=len(self.traffic.clients),
            clients_seen=self.traffic.clients_seen,
            streams=len(self.dispatcher.streams),
            messages_dropped=self.traffic.dropped,
            peers_shed=self.dispatcher.shed.seen,
            spawns=wire.SpawnStats(
                requested=spawns.requested, succeeded=spawns.succeeded, failed=spawns.failed
            ),
            events=wire.EventStats(first=journal.first, last=journal.last),
            agents=self.book.roster.counts(),
            bounds_s=BOUNDS_S,
            methods={
                name: method.stats() for name, method in requests.methods.items() if method.requests
            },
        )
