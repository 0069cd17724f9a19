"""Has the metrics read in the server's loop, and sends them from a thread, over and over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult

from descartesd.api import Distribution, MetricFamily, MetricSource, UnavailableError
from descartesd_otel.families import translated
from descartesd_otel.settings import Config

log = logging.getLogger("descartesd.plugins.otel")

# Where the server's own metrics say who it is.
_ABOUT = "descartesd_build_info"


async def export(config: Config, source: MetricSource) -> None:
    """Send the metrics every so often until cancelled, and once more then.

    Raises UnavailableError when the headers cannot be read.
    """
    sender = Sender(config)
    try:
        while True:
            await _in_thread(sender, source.collect())
            await asyncio.sleep(config.interval_s)
    finally:
        # What has happened since the last time would else be lost.
        await _in_thread(sender, source.collect())
        sender.close()


async def _in_thread(sender: Sender, families: Sequence[MetricFamily]) -> None:
    """Send from a thread that keeps nobody from ending, whatever the collector does."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    now_ns = time.time_ns()

    def work() -> None:
        sender.send(families, now_ns)
        # The server may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_set, done)

    threading.Thread(target=work, name="otel", daemon=True).start()
    await done


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class Sender:
    """Sends to one collector; used by one thread at a time."""

    def __init__(self, config: Config) -> None:
        """Raises UnavailableError when the file of headers cannot be used."""
        try:
            headers = config.all_headers()
        except (OSError, ValueError) as exc:
            raise UnavailableError(
                f"headers_file: {exc}", hint="see headers_file in [plugins.otel]"
            ) from exc
        self._config = config
        self._start_ns = time.time_ns()
        self._is_failing = False
        self._exporter = OTLPMetricExporter(
            endpoint=config.endpoint,
            headers=headers,
            timeout=config.timeout_s,
            compression=Compression.Gzip,
        )

    def send(self, families: Sequence[MetricFamily], now_ns: int) -> bool:
        """Send once; False when that was in vain."""
        data = translated(
            families, self._resource(families), start_ns=self._start_ns, now_ns=now_ns
        )
        is_sent = self._exporter.export(data) is MetricExportResult.SUCCESS
        if is_sent and self._is_failing:
            log.info("otel.sends_again", extra={"endpoint": self._config.endpoint})
        elif not is_sent and not self._is_failing:
            log.warning("otel.cannot_send", extra={"endpoint": self._config.endpoint})
        self._is_failing = not is_sent
        return is_sent

    def close(self) -> None:
        """Close its connections."""
        self._exporter.shutdown()

    def _resource(self, families: Sequence[MetricFamily]) -> dict[str, str]:
        about = next((family.samples for family in families if family.name == _ABOUT), ())
        told = [each.labels for each in about if not isinstance(each, Distribution)]
        server = told[0] if told else {}
        found = {
            "service.name": "descartesd",
            "service.version": server.get("version", ""),
            "service.instance.id": server.get("server_id", ""),
        }
        return {**{name: value for name, value in found.items() if value}, **self._config.resource}
