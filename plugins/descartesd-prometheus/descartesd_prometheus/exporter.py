"""Has the metrics read in the server's loop while threads of the plugin's own speak HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from descartesd.api import MetricFamily, MetricSource, UnavailableError
from descartesd_prometheus.server import MetricsServer
from descartesd_prometheus.settings import Config

log = logging.getLogger("descartesd.plugins.prometheus")

# Seconds the loop may take to come to it; Prometheus itself gives up after 10 by default.
_PATIENCE_S = 5.0
# So long a stop may take to be seen.
_POLL_S = 0.1


async def export(config: Config, source: MetricSource) -> None:
    """Serve the metrics until cancelled. Raises UnavailableError when it cannot listen."""
    reader = LoopReader(asyncio.get_running_loop(), source)
    try:
        server = MetricsServer(config, reader.collect)
    except OSError as exc:
        raise UnavailableError(
            f"cannot serve metrics on {config.listen}: {exc.strerror or exc}",
            hint="see listen, tls_cert, tls_key and tls_client_ca in [plugins.prometheus]",
        ) from exc
    threading.Thread(target=server.serve_forever, name="prometheus", args=(_POLL_S,)).start()
    log.info("prometheus.listening", extra={"address": server.address})
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(server.end)


class LoopReader:
    """Reads the metrics for any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: MetricSource) -> None:
        self._loop = loop
        self._source = source

    def collect(self) -> Sequence[MetricFamily]:
        """Every metric; raises UnavailableError when the loop does not come to it."""
        found: Future[Sequence[MetricFamily]] = Future()
        try:
            self._loop.call_soon_threadsafe(self._read, found)
            return found.result(_PATIENCE_S)
        except TimeoutError as exc:
            found.cancel()
            raise UnavailableError(
                f"the server's loop has not read its metrics within {_PATIENCE_S:g} s"
            ) from exc
        except RuntimeError as exc:
            raise UnavailableError("the server has stopped") from exc

    def _read(self, found: Future[Sequence[MetricFamily]]) -> None:
        if not found.set_running_or_notify_cancel():
            return
        try:
            found.set_result(self._source.collect())
        except Exception as exc:  # noqa: BLE001  # it belongs to the thread that asks
            found.set_exception(exc)
