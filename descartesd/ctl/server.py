"""The verbs of the noun `server`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output

if TYPE_CHECKING:
    from descartesd.wire.server import ServerHealth, ServerHello


def _health(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        health = client.server.health()
    out.document(health, ids=[health.server_id], lines=text.pairs(_health_rows(health)))
    return 0


def _health_rows(health: ServerHealth) -> list[tuple[str, str]]:
    keeper = health.keeper
    connected = f"connected, version {keeper.version}, pid {keeper.pid}"
    agents = (f"{count} {state}" for state, count in sorted(health.agents.items()) if count)
    return [
        ("status", health.status),
        *(("reason", reason) for reason in health.reasons),
        ("server", health.server_id),
        ("version", health.version),
        ("uptime", text.age(health.uptime_s)),
        ("keeper", connected if keeper.connected else "not connected"),
        ("isolation", health.isolation),
        *(("listener", listener) for listener in health.listeners),
        ("agents", ", ".join(agents) or "none"),
    ]


def _info(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        hello = client.server.hello()
    out.document(hello, ids=[hello.server_id], lines=text.pairs(_info_rows(hello)))
    return 0


def _info_rows(hello: ServerHello) -> list[tuple[str, str]]:
    identity = hello.identity
    name = f" '{identity.name}'" if identity.name else ""
    return [
        ("server", hello.server_id),
        ("version", hello.version),
        ("protocol", str(hello.protocol)),
        ("features", " ".join(hello.features)),
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
    "methods": Command(
        summary="List every method of the server.",
        examples=("server methods", "--json server methods"),
        run=_methods,
    ),
}
