"""Runs the exporters of plugins beside everything else, and tries one that fails again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from descartesd.api import Exporter, MetricSource
from descartesd.hooks.record import PluginRecord, named, now_ns
from descartesd.hooks.within import CAUGHT

log = logging.getLogger(__name__)

# Seconds until an exporter that has failed is tried again: at first, and at most.
_AGAIN_S, _AGAIN_MOST_S = 1.0, 60.0
# One that has run for so long works.
_WORKS_AFTER_S = 0.5
# One that is cancelled may tidy up for so long before nobody waits for it any more.
_LAST_S = 2.0


class Exporting:
    """All exporters, each in a task that nothing else depends on."""

    def __init__(
        self,
        records: Mapping[str, PluginRecord],
        exporters: Mapping[str, tuple[str, Exporter]],
        source: MetricSource,
    ) -> None:
        """`exporters` stand by their name, with that of their plugin."""
        self._records = records
        self._exporters = exporters
        self._source = source
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin with all of them."""
        loop = asyncio.get_running_loop()
        for plugin, exporter in self._exporters.values():
            # Of no TaskGroup: what ignores its cancellation must not keep the server from ending.
            task = loop.create_task(self._keep_up(self._records[plugin], exporter))
            self._tasks.add(task)

    async def stop(self) -> None:
        """End all of them; one that does not let itself be ended is left to itself."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_S)

    async def _keep_up(self, record: PluginRecord, exporter: Exporter) -> None:
        loop = asyncio.get_running_loop()
        again_s = _AGAIN_S
        while True:
            began, began_ns = loop.time(), now_ns()
            works = loop.call_later(_WORKS_AFTER_S, _note_works, record)
            try:
                await exporter.run(self._source)
                fault, cause = "it has ended", None
            except CAUGHT as exc:
                fault, cause = named(exc), exc
            finally:
                works.cancel()
            if record.problem is None:
                record.went_wrong(f"exporter '{exporter.name}'", began_ns, fault, cause)
            record.problem = f"exporter '{exporter.name}': {fault}"
            if loop.time() - began > _AGAIN_MOST_S:
                again_s = _AGAIN_S
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _AGAIN_MOST_S)


def _note_works(record: PluginRecord) -> None:
    if record.problem is not None:
        log.info("exporter.works", extra={"plugin": record.name})
        record.problem = None
