"""Gathers what has been counted since the server started."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.observe.metrics import BOUNDS_S, RequestMetrics, Traffic
from descartesd.transport.shed import Shed
from descartesd.transport.streams import Streams
from descartesd.wire import server as wire


@dataclass(frozen=True, slots=True)
class Stats:
    """Reads the parts that count; it changes none of them."""

    server_id: str
    book: Book
    fleet: Fleet
    requests: RequestMetrics
    traffic: Traffic
    streams: Streams
    shed: Shed
    started_at: float = field(default_factory=time.time)
    _started: float = field(default_factory=time.monotonic)

    def report(self) -> wire.ServerStats:
        """Answer `server.stats`; methods nobody has asked for are left out."""
        spawns = self.fleet.spawns
        journal = self.book.journal
        return wire.ServerStats(
            server_id=self.server_id,
            started_at=self.started_at,
            uptime_s=round(time.monotonic() - self._started, 3),
            requests=self.requests.requests,
            failures=self.requests.errors.total(),
            errors=dict(self.requests.errors),
            bytes_received=self.traffic.bytes_received,
            bytes_sent=self.traffic.bytes_sent,
            clients=len(self.traffic.clients),
            clients_seen=self.traffic.clients_seen,
            streams=len(self.streams),
            messages_dropped=self.traffic.dropped,
            peers_shed=self.shed.seen,
            spawns=wire.SpawnStats(
                requested=spawns.requested, succeeded=spawns.succeeded, failed=spawns.failed
            ),
            events=wire.EventStats(first=journal.first, last=journal.last),
            agents=self.book.roster.counts(),
            bounds_s=BOUNDS_S,
            methods={
                name: method.stats()
                for name, method in self.requests.methods.items()
                if method.requests
            },
        )
