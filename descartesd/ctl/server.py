"""The verbs of the noun `server`."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.errors import DeadlineExceededError, PermissionDeniedError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.server import (
        Drained,
        KeeperHealth,
        ServerHealth,
        ServerHello,
        ServerStats,
    )

# How often `drain --wait` looks whether anything is still alive.
_LOOK_EVERY_S = 0.5


def _health(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        health = client.server.health()
    out.document(health, ids=[health.server_id], lines=text.pairs(_health_rows(health)))
    return 0


def _health_rows(health: ServerHealth) -> list[tuple[str, str]]:
    return [
        ("status", health.status),
        *(("reason", reason) for reason in health.reasons),
        *([("draining", "takes no new agents")] if health.draining else []),
        ("server", health.server_id),
        ("version", health.version),
        ("uptime", text.age(health.uptime_s)),
        *_keeper_rows(health.keeper),
        ("isolation", health.isolation),
        *([("groups", _groups(health.keeper))] if health.keeper.connected else []),
        *(("listener", listener) for listener in health.listeners),
        ("agents", _counts(health.agents)),
        ("works", ", ".join(name for name, found in health.checks.items() if found == "ok")),
        *(("fails", name) for name, found in health.checks.items() if found != "ok"),
    ]


def _keeper_rows(keeper: KeeperHealth) -> list[tuple[str, str]]:
    """Who it is, and who it would be: one line where that is the same."""
    if not keeper.connected:
        return [("keeper", "not connected")]
    rows = [
        ("keeper", f"connected, version {keeper.version}, build {keeper.build}, pid {keeper.pid}")
    ]
    if keeper.build != keeper.installed_build:
        installed = f"version {keeper.installed_version}, build {keeper.installed_build}"
        why = keeper.stays_because or "it is about to be this one"
        rows.append(("keeper installed", f"{installed}: {why}"))
    return rows


def _groups(keeper: KeeperHealth) -> str:
    if keeper.control_groups:
        return "one for each agent"
    return "none: memory and processor time cannot be limited"


def _counts(numbers: Mapping[str, int]) -> str:
    shown = (f"{count} {name}" for name, count in sorted(numbers.items()) if count)
    return ", ".join(shown) or "none"


def _info(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        hello = client.server.hello()
        try:
            keeper = _keeper_rows(client.server.health().keeper)
        except PermissionDeniedError:
            # A role may be without this method, and tells nothing of it then.
            keeper = []
    rows = [*_info_rows(hello), *keeper]
    out.document(hello, ids=[hello.server_id], lines=text.pairs(rows))
    return 0


def _info_rows(hello: ServerHello) -> list[tuple[str, str]]:
    identity = hello.identity
    name = f" '{identity.name}'" if identity.name else ""
    return [
        ("server", hello.server_id),
        ("version", hello.version),
        ("protocol", str(hello.protocol)),
        ("features", " ".join(hello.features)),
        ("backends", " ".join(hello.backends)),
        ("identity", f"{identity.id}{name}"),
        ("role", identity.role),
        ("largest request", f"{hello.limits.max_request_bytes} bytes"),
        ("largest message", f"{hello.limits.max_message_bytes} bytes"),
    ]


def _methods(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        table = client.server.methods()
    rows = [
        (method.name, method.permission, "stream" if method.stream else "-", method.summary)
        for method in table.methods
    ]
    out.document(
        table,
        ids=[method.name for method in table.methods],
        lines=text.table(("METHOD", "ROLE", "STREAM", "SUMMARY"), rows),
    )
    return 0


def _stats(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        stats = client.server.stats()
    lines = [*text.pairs(_total_rows(stats)), "", *_method_lines(stats)]
    out.document(stats, ids=[stats.server_id], lines=lines)
    return 0


def _total_rows(stats: ServerStats) -> list[tuple[str, str]]:
    spawns, events = stats.spawns, stats.events
    return [
        ("server", stats.server_id),
        ("uptime", text.age(stats.uptime_s)),
        ("requests", f"{stats.requests}, {stats.failures} failed"),
        ("errors", _counts(stats.errors)),
        ("received", text.size(stats.bytes_received)),
        ("sent", text.size(stats.bytes_sent)),
        ("clients", f"{stats.clients} now, {stats.clients_seen} seen"),
        ("streams", str(stats.streams)),
        ("dropped", f"{stats.messages_dropped} messages, {stats.peers_shed} clients"),
        ("spawns", f"{spawns.requested}, {spawns.failed} failed"),
        ("events", f"{events.first} to {events.last}" if events.last else "none"),
        ("agents", _counts(stats.agents)),
    ]


def _method_lines(stats: ServerStats) -> list[str]:
    rows = [
        (
            name,
            str(method.requests),
            str(method.failures),
            _latency(method.latency.p50_s),
            _latency(method.latency.p99_s),
        )
        for name, method in stats.methods.items()
        if method.requests
    ]
    return text.table(("METHOD", "REQUESTS", "FAILURES", "P50", "P99"), rows)


def _latency(seconds: float) -> str:
    return text.seconds(seconds) if seconds else "-"


def _drain_arguments(parser: ArgumentParser) -> None:
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--undo", action="store_true", help="take new agents again")
    then.add_argument("--wait", action="store_true", help="wait until no agent is alive any more")


def _drain(args: Namespace, out: Output) -> int:
    until = None if args.timeout is None else time.monotonic() + args.timeout
    with connect(args) as client:
        drained = client.server.drain(undo=args.undo)
        if args.wait:
            drained = _until_empty(client, drained, until, out)
    out.document(drained, ids=[], lines=text.pairs(_drained_rows(drained)))
    return 0


def _until_empty(client: Client, drained: Drained, until: float | None, out: Output) -> Drained:
    told = None
    while drained.alive:
        if drained.alive != told:
            told = drained.alive
            out.note(f"waiting: {told} alive")
        if until is not None and time.monotonic() + _LOOK_EVERY_S > until:
            raise DeadlineExceededError(
                f"agents are still alive: {drained.alive}; new ones are refused",
                hint="stop them with: descartesctl agent stop --all",
            )
        time.sleep(_LOOK_EVERY_S)
        drained = client.server.drain()
    return drained


def _drained_rows(drained: Drained) -> list[tuple[str, str]]:
    return [
        ("new agents", "refused" if drained.draining else "taken"),
        ("alive", str(drained.alive)),
        *([("queued", f"{drained.queued}, until agents are taken")] if drained.queued else []),
    ]


def _reload_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--wait", action="store_true", help="as always: end when it is taken over, or refused"
    )


def _reload(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        found = client.server.reload()
    rows = [
        *(("changed", key) for key in found.changed),
        *(("needs a restart", key) for key in found.restart),
    ]
    lines = text.pairs(rows or [("changed", "nothing")])
    out.document(found, ids=[*found.changed, *found.restart], lines=lines)
    return 0


COMMANDS = {
    "health": Command(
        summary="Tell whether every part of the server works; 0 while it serves.",
        examples=("server health", "--json --wait-for-server 10 server health"),
        run=_health,
    ),
    "info": Command(
        summary="Introduce the server: version, features, limits, and who it takes you for.",
        examples=("server info", "--profile ci --json server info"),
        run=_info,
    ),
    "stats": Command(
        summary="Count what has been asked and answered since the start, and how long it took.",
        examples=("server stats", "--json server stats"),
        run=_stats,
    ),
    "drain": Command(
        summary="Take and start no new agents from now on, and leave the others alone.",
        examples=("server drain --wait --timeout 1h", "server drain --undo"),
        run=_drain,
        arguments=_drain_arguments,
    ),
    "reload": Command(
        summary="Read the configuration again; one that is refused changes nothing.",
        examples=("server reload", "--json server reload"),
        run=_reload,
        arguments=_reload_arguments,
    ),
    "methods": Command(
        summary="List every method of the server.",
        examples=("server methods", "--json server methods"),
        run=_methods,
    ),
}
