"""The method about plugins: who takes part, and how it fares."""

from __future__ import annotations

from collections.abc import Mapping

from descartesd.config.plugin import masked
from descartesd.hooks.record import PluginRecord
from descartesd.hooks.relay import Relay
from descartesd.methods.call import Call, Handler
from descartesd.methods.grants import RANKS
from descartesd.wire.plugin import PluginInfo, PluginTable
from descartesd.wire.server import Empty


class PluginMethods:
    """One function per method."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"plugin.list": self.list}

    def list(self, call: Call, _params: Empty) -> PluginTable:
        with_config = call.caller.grants.rank >= RANKS["admin"]
        records = self._relay.records.values()
        return PluginTable(plugins=[_info(record, with_config) for record in records])


def _info(record: PluginRecord, with_config: bool) -> PluginInfo:
    settings = record.origin.settings
    return PluginInfo(
        name=record.name,
        distribution=record.origin.distribution,
        version=record.origin.version,
        state=record.state,
        hooks=list(record.hooks),
        calls=record.calls,
        errors=record.errors,
        dropped=record.dropped,
        p99_s=record.p99_s,
        actions=record.registered.get("actions", []),
        backends=record.registered.get("backends", []),
        metrics=record.registered.get("metrics", []),
        exporters=record.registered.get("exporters", []),
        last_error=record.last_error,
        config=masked(settings) if with_config and settings is not None else None,
    )
