"""The functions that read the server's own metrics, from the parts that count already."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, get_args

from descartesd.agents.book import Book
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import TRANSITIONS
from descartesd.agents.spending import Spending
from descartesd.config.schema import Config
from descartesd.hooks.relay import Relay
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.health import OK, Health, Parts
from descartesd.metric import Distribution, Sample
from descartesd.observe import process
from descartesd.observe.audit import AuditLog
from descartesd.observe.declared import Read, with_readers
from descartesd.observe.readings import Readings
from descartesd.transport.server import RouterServer
from descartesd.transport.zap import ZapHandler
from descartesd.wire.plugin import PluginState

Readers = Mapping[str, Read]
Samples = list[Sample]
T = TypeVar("T")

_OURSELVES, _KEEPER = "daemon", "keeper"
# Metrics that are read within so many seconds are of one reading.
_TOGETHER_S = 0.05
# What is left of a certificate's life when it counts as expiring.
_LAST_PART = 1 / 3


@dataclass(frozen=True, slots=True)
class Measured:
    """The parts the numbers are of."""

    config: Config
    version: str
    health: Health
    dispatcher: Dispatcher
    router: RouterServer
    zap: ZapHandler
    trust: TrustStore
    # When systemd's watchdog was last told that all is well, on the monotonic clock.
    watchdog_at: Callable[[], float | None]
    started_at: float = field(default_factory=time.time)


def readings_of(measured: Measured) -> Readings:
    """The metrics of the server itself."""
    readings = Readings()
    own = {
        **readers_of(measured),
        "descartesd_metric_failures_total": lambda: by("metric", readings.failures),
    }
    readings.add(with_readers(own), "descartesd")
    return readings


def readers_of(measured: Measured) -> Readers:
    """A function for each of the server's own metrics, but for those about reading them."""
    parts = measured.health.parts
    return {
        **_server(measured),
        **_processes(parts.keeper),
        **_requests(measured.dispatcher),
        **_traffic(measured.router, measured.zap),
        **_agents(parts),
        **_sums(parts.book),
        **_state(measured.health, measured.config.server.state_dir),
        **_security(measured.trust, parts.audit),
        **_plugins(parts.plugins),
    }


def by(label: str, values: Mapping[str, float]) -> Samples:
    """A sample for each value of one label."""
    return [Sample(value=value, labels={label: name}) for name, value in values.items()]


def known(value: float | None) -> Samples:
    """A sample of what is known, none of what is not."""
    return [] if value is None else [Sample(value=value)]


def together(read: Callable[[], T]) -> Callable[[], T]:
    """Read once what several metrics are about that are read at the same time."""
    at = -_TOGETHER_S
    last: T

    def reading() -> T:
        nonlocal at, last
        if time.monotonic() - at >= _TOGETHER_S:
            last = read()
            at = time.monotonic()
        return last

    return reading


def since(moment: float | None) -> Samples:
    """Seconds since then, on the monotonic clock."""
    return known(None if moment is None else time.monotonic() - moment)


def _server(measured: Measured) -> Readers:
    health = measured.health
    checks = together(health.checks)
    server = measured.config.server
    about = {"version": measured.version, "server_id": server.server_id}
    return {
        "descartesd_build_info": lambda: [Sample(value=1, labels=about)],
        "descartesd_start_time_seconds": lambda: measured.started_at,
        "descartesd_healthy": lambda: all(found == OK for found in checks().values()),
        "descartesd_part_healthy": lambda: by(
            "part", {part: found == OK for part, found in checks().items()}
        ),
        "descartesd_draining": lambda: health.parts.fleet.starts.closed is not None,
        "descartesd_event_loop_lag_seconds": lambda: health.lag_s,
        "descartesd_watchdog_ping_age_seconds": lambda: since(measured.watchdog_at()),
        "descartesd_state_free_bytes": lambda: _free(server.state_dir),
    }


def _free(directory: str) -> float:
    found = os.statvfs(directory)
    return float(found.f_bavail * found.f_frsize)


def _processes(keeper: KeeperLink) -> Readers:
    def look() -> dict[str, process.Use]:
        pids = {_OURSELVES: os.getpid(), _KEEPER: keeper.pid}
        used = {name: process.use_of(pid) for name, pid in pids.items() if pid is not None}
        return {name: use for name, use in used.items() if use is not None}

    looked, memory = together(look), together(process.scarcest_memory)

    def uses(field: Callable[[process.Use], float | None]) -> Samples:
        found = {name: field(use) for name, use in looked().items()}
        return by("process", {name: value for name, value in found.items() if value is not None})

    def sizes(field: Callable[[process.Memory], float]) -> Samples:
        found = memory()
        return known(None if found is None else field(found))

    return {
        "descartesd_process_cpu_seconds_total": lambda: uses(lambda use: use.cpu_s),
        "descartesd_process_resident_memory_bytes": lambda: uses(lambda use: use.memory_bytes),
        "descartesd_process_threads": lambda: uses(lambda use: use.threads),
        "descartesd_process_open_fds": lambda: uses(lambda use: use.open_fds),
        "descartesd_process_max_fds": lambda: uses(lambda use: use.max_fds),
        "descartesd_memory_used_bytes": lambda: sizes(lambda found: found.used),
        "descartesd_memory_limit_bytes": lambda: sizes(lambda found: found.limit),
    }


def _requests(dispatcher: Dispatcher) -> Readers:
    counted = dispatcher.metrics

    def answers() -> Iterator[Sample]:
        codes = {name: each.codes() for name, each in counted.methods.items() if each.requests}
        for method, numbers in {"unknown": counted.unknown, **codes}.items():
            for code, number in numbers.items():
                yield Sample(value=number, labels={"method": method, "code": code})

    def lengths() -> list[Distribution]:
        return [each.distribution(name) for name, each in counted.methods.items() if each.requests]

    def broken_off() -> Samples:
        found: Counter[str] = Counter()
        for method in counted.methods.values():
            found.update(method.broken_off)
        return by("code", found)

    return {
        "descartesd_requests_total": answers,
        "descartesd_request_duration_seconds": lengths,
        "descartesd_requests_in_progress": lambda: dispatcher.open_requests,
        "descartesd_streams": lambda: len(dispatcher.streams),
        "descartesd_stream_failures_total": broken_off,
        "descartesd_peers_shed_total": lambda: dispatcher.shed.seen,
    }


def _traffic(router: RouterServer, zap: ZapHandler) -> Readers:
    traffic = router.traffic
    return {
        "descartesd_clients": lambda: len(traffic.clients),
        "descartesd_client_connections_total": lambda: traffic.clients_seen,
        "descartesd_received_bytes_total": lambda: traffic.bytes_received,
        "descartesd_sent_bytes_total": lambda: traffic.bytes_sent,
        "descartesd_messages_dropped_total": lambda: traffic.dropped,
        "descartesd_handshakes_accepted_total": lambda: zap.accepted,
        "descartesd_handshakes_refused_total": lambda: by("cause", router.failed_handshakes),
        "descartesd_key_lookup_failures_total": lambda: zap.failed,
    }


def _agents(parts: Parts) -> Readers:
    book, fleet = parts.book, parts.fleet

    def states() -> Samples:
        counts = book.roster.counts()
        return by("state", {state: counts.get(state, 0) for state in TRANSITIONS})

    return {
        "descartesd_agents": states,
        "descartesd_agents_alive": lambda: book.alive,
        "descartesd_agents_limit": lambda: fleet.starts.bounds[0],
        "descartesd_agents_queued": lambda: book.queued,
        "descartesd_agents_queued_limit": lambda: fleet.starts.bounds[1],
        "descartesd_spawns_total": lambda: by(
            "outcome",
            {
                "succeeded": fleet.starts.counts.succeeded,
                "failed": fleet.starts.counts.failed,
            },
        ),
        "descartesd_agent_exits_total": lambda: _ends(book),
        "descartesd_agent_restarts_total": lambda: book.restarts,
    }


def _ends(book: Book) -> Samples:
    return [
        Sample(value=number, labels={"state": state, "reason": reason})
        for (state, reason), number in book.ends.items()
    ]


@dataclass(slots=True)
class _Sums:
    """Over all agents there are."""

    blocked: int = 0
    output_bytes: int = 0
    memory_bytes: int = 0
    tasks: int = 0


def _sums(book: Book) -> Readers:
    spending = Spending(book)

    def add_up() -> _Sums:
        found = _Sums()
        for agent in book.roster:
            spending.note(agent)
            found.blocked += agent.output_error is not None and not agent.eof
            found.output_bytes += agent.output.stdout.total + agent.output.stderr.total
            if agent.usage is not None and not agent.is_over:
                found.memory_bytes += agent.usage.memory_bytes
                found.tasks += agent.usage.tasks
        return found

    sums = together(add_up)
    return {
        "descartesd_agents_output_blocked": lambda: sums().blocked,
        "descartesd_agents_output_bytes": lambda: sums().output_bytes,
        "descartesd_agents_memory_bytes": lambda: sums().memory_bytes,
        "descartesd_agents_tasks": lambda: sums().tasks,
        # Those of agents that are gone have been noted as they went.
        "descartesd_agent_tokens_total": lambda: (sums(), spending.tokens)[1],
        "descartesd_agent_cost_usd_total": lambda: (sums(), spending.cost_usd)[1],
    }


def _state(health: Health, state_dir: str) -> Readers:
    book, keeper = health.parts.book, health.parts.keeper
    journal, registry = book.journal, book.registry
    commits = _count_commits(book)
    path = os.path.join(state_dir, "registry.sqlite")
    return {
        "descartesd_events_total": lambda: journal.last,
        "descartesd_events_kept": lambda: journal.last - journal.first + 1 if journal.first else 0,
        "descartesd_registry_commits_total": lambda: by(
            "outcome", {"committed": commits(), "failed": registry.failures}
        ),
        "descartesd_registry_size_bytes": lambda: _size(path),
        "descartesd_keeper_up": lambda: health.checks()["keeper"] == OK,
        "descartesd_keeper_connections_total": lambda: keeper.connections,
        "descartesd_keeper_strays": lambda: len(health.strays),
    }


def _size(path: str) -> float:
    return float(
        sum(os.path.getsize(each) for each in (path, f"{path}-wal") if os.path.exists(each))
    )


def _count_commits(book: Book) -> Callable[[], int]:
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    book.registry.on_saved.append(count)
    return lambda: counted


def _security(trust: TrustStore, audit: AuditLog) -> Readers:
    def certificates() -> Samples:
        now = time.time()
        found = Counter(_standing(each, now) for each in trust.identities())
        states = ("valid", "expiring", "expired", "not_yet")
        return by("state", {state: found[state] for state in states})

    return {
        "descartesd_certificates": certificates,
        "descartesd_trust_store_problems": lambda: len(trust.problems),
        "descartesd_audit_lines_total": lambda: audit.seq,
        "descartesd_audit_failures_total": lambda: audit.failures,
    }


def _plugins(relay: Relay) -> Readers:
    records = relay.records

    def states() -> Samples:
        found = Counter(record.state for record in records.values())
        return by("state", {state: found[state] for state in get_args(PluginState)})

    return {
        "descartesd_plugins": states,
        "descartesd_plugin_calls_total": lambda: by(
            "plugin", {name: record.calls for name, record in records.items()}
        ),
        "descartesd_plugin_failures_total": lambda: by(
            "plugin", {name: record.errors for name, record in records.items()}
        ),
        "descartesd_plugin_facts_dropped_total": lambda: by(
            "plugin", {name: record.dropped for name, record in records.items()}
        ),
    }


def _standing(identity: Identity, now: float) -> str:
    if now < identity.not_before:
        return "not_yet"
    left = identity.not_after - now
    if left <= 0:
        return "expired"
    life = identity.not_after - identity.not_before
    return "expiring" if left < life * _LAST_PART else "valid"
