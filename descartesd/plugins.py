"""Part of the composition root: loads the plugins, collects what they add, has them told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import NamedTuple

import msgspec
from msgspec import Raw

from descartesd.agents.backend import Backends, with_configured
from descartesd.agents.book import Book
from descartesd.agents.record import Agent
from descartesd.api import Backend, Event, Exporter, Metric, ServerInfo, State
from descartesd.builtin import actions, backends
from descartesd.config.load import Loaded
from descartesd.hooks.exporting import Exporting
from descartesd.hooks.load import load
from descartesd.hooks.record import Options, Origin, PluginRecord
from descartesd.hooks.relay import Registered, Relay
from descartesd.observe.readings import Readings
from descartesd.wire.event import EventKind


class Contributions(NamedTuple):
    """The plugins, and all they add, by name.

    Of the backends also those of the configuration; metrics and exporters with their plugin.
    """

    relay: Relay
    actions: Mapping[str, Registered]
    backends: Backends
    # Those without the configuration's.
    offered: Sequence[Backend]
    metrics: Mapping[str, tuple[str, Metric]]
    exporters: Mapping[str, tuple[str, Exporter]]


def contributions(loaded: Loaded) -> Contributions:
    """Load the plugins that are enabled, and collect from every one.

    Raises StartupRefusedError naming the plugin or the setting that does not fit.
    """
    config = loaded.config
    plugins = config.plugins
    relay = Relay(
        Options(
            hook_timeout_s=plugins.hook_timeout_s,
            bench_failures=plugins.bench_failures,
            bench_calls=plugins.bench_calls,
            bench_s=plugins.bench_s,
        )
    )
    ours = Origin(version=metadata.version("descartesd"))
    relay.register(actions, "builtin", ours)
    relay.register(backends, "builtin-backends", ours)
    for name, plugin, origin in load(plugins.enabled, loaded.plugins):
        relay.register(plugin, name, origin)
    offered = list(relay.register_backends().values())
    return Contributions(
        relay,
        relay.register_actions(),
        with_configured(offered, config.backends, loaded.origin),
        offered,
        relay.register_metrics(),
        relay.register_exporters(),
    )


def configured_backends(contributed: Contributions, loaded: Loaded) -> Backends:
    """All backends, with those of another configuration; raises StartupRefusedError."""
    return with_configured(contributed.offered, loaded.config.backends, loaded.origin)


def exporting(contributed: Contributions, readings: Readings) -> Exporting:
    """Add the metrics of the plugins, and have their exporters ready to be started.

    Raises StartupRefusedError when a metric has the name of one of the server's own.
    """
    for plugin, metric in contributed.metrics.values():
        readings.add([metric], plugin)
    relay = contributed.relay
    if relay.has("metrics_collected"):
        readings.on_collected = relay.metrics_collected
    return Exporting(relay.records, contributed.exporters, readings)


# The states in which a program of an agent runs.
_RUNS = ("running", "paused", "stopping")


def connect(relay: Relay, book: Book, loop: asyncio.AbstractEventLoop) -> None:
    """Have the plugins told of agents from now on; what none asks for is not even looked at."""
    if any(map(relay.has, ("agent_started", "agent_state_changed", "agent_exited"))):
        book.on_state = partial(_tell_state, relay, book)
    if relay.has("agent_event"):
        book.journal.on_told = partial(_tell_events, relay)

    def bench(record: PluginRecord, benched: bool) -> None:
        kind: EventKind = "plugin_benched" if benched else "plugin_restored"
        data = {"plugin": record.name, "last_error": record.last_error}
        # A plugin's own thread may outlive the loop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(partial(book.journal.record, kind, data=data))

    for record in relay.records.values():
        record.on_bench = bench


def _tell_state(relay: Relay, book: Book, agent: Agent, previous: State) -> None:
    info = book.views.info(agent)
    if previous == "starting" and info.state == "running":
        relay.agent_started(info)
    elif previous in _RUNS and info.state not in _RUNS:
        relay.agent_exited(info)
    relay.agent_state_changed(info, previous)


_decode = msgspec.msgpack.Decoder(Event).decode


def _tell_events(relay: Relay, rows: Sequence[tuple[int, Raw]]) -> None:
    for _, row in rows:
        event = _decode(row)
        if event.agent_id is not None:
            relay.agent_event(event)


async def stopping(relay: Relay, about: ServerInfo) -> None:
    """Tell the plugins that the server stops, and give them the time of one hook for it."""
    relay.daemon_stopping(about)
    await relay.settled()
