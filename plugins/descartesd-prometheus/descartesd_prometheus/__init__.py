"""Shows the metrics of descartesd to Prometheus, over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from descartesd.api import Exporter, hookimpl
from descartesd_prometheus import settings
from descartesd_prometheus.exporter import export


class Plugin:
    """What the entry point `prometheus` names."""

    Config = settings.Config

    def __init__(self, config: settings.Config) -> None:
        self._config = config

    @hookimpl
    def register_exporters(self) -> Iterable[Exporter]:
        """Add the one exporter."""
        yield Exporter(name="prometheus", run=partial(export, self._config))
