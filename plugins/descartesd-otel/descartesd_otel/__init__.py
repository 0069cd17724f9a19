"""Sends the metrics of descartesd to an OpenTelemetry collector."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from descartesd.api import Exporter, hookimpl
from descartesd_otel import settings
from descartesd_otel.exporter import export


class Plugin:
    """What the entry point `otel` names."""

    Config = settings.Config

    def __init__(self, config: settings.Config) -> None:
        self._config = config

    @hookimpl
    def register_exporters(self) -> Iterable[Exporter]:
        """Add the one exporter."""
        yield Exporter(name="otel", run=partial(export, self._config))
