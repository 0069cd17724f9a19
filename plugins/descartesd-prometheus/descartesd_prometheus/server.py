"""A small HTTP server for one page, in threads of its own."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.exposition import choose_encoder

from descartesd.api import MetricFamily, UnavailableError
from descartesd_prometheus.families import Collected
from descartesd_prometheus.settings import Config

log = logging.getLogger("descartesd.plugins.prometheus")

# Seconds a peer may keep a thread waiting for its next bytes, and in all; how many may at once.
_PATIENCE_S = 5.0
_MOST_S = 15.0
_AT_ONCE = 16

# Reads every metric; raises UnavailableError.
Collect = Callable[[], Sequence[MetricFamily]]


class MetricsServer(ThreadingHTTPServer):
    """Listens from when it is made. Raises OSError when it cannot."""

    daemon_threads = True
    # Who is in the middle of a scrape does not hold up a stop.
    block_on_close = False
    request_queue_size = 64

    def __init__(self, config: Config, collect: Collect) -> None:
        self.path = config.path
        self.collect = collect
        self._tls = config.tls()
        # The connections that are served, with the time each has.
        self._served: dict[socket.socket, float] = {}
        found = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family = found[0][0]
        super().__init__(found[0][4][:2], _Page)  # type: ignore[arg-type]  # IPv4 and IPv6 both fit
        host, port = self.server_address[:2]
        self.address = f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def end(self) -> None:
        """Stop listening; to be called while another thread serves."""
        self.shutdown()
        self.server_close()

    def server_bind(self) -> None:
        """Bind without asking for a name: that could take long, and nothing needs it."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, unless as many are served already."""
        if len(self._served) < _AT_ONCE:
            self._served[request] = time.monotonic() + _MOST_S
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Cut who has taken too long; called several times a second."""
        for request, until in list(self._served.items()):
            if time.monotonic() > until:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
            if request.fileno() < 0:
                self._served.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection; the handshake of TLS is made here, where it holds up nobody."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._served.pop(request, None)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak with one peer."""
        request.settimeout(_PATIENCE_S)
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        # Of a duplicate: the connection itself can still be cut.
        with self._tls.wrap_socket(request.dup(), server_side=True) as spoken:
            super().finish_request(spoken, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # as it is declared
        """Note what went wrong with one peer, which is its own affair."""
        cause = repr(sys.exception())
        log.debug("scrape.failed", extra={"peer": str(client_address), "cause": cause})


class _Page(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: MetricsServer  # type: ignore[mutable-override]  # it serves no other
    server_version = "descartesd"
    sys_version = ""
    timeout = _PATIENCE_S  # type: ignore[mutable-override]  # nobody changes it

    def do_GET(self) -> None:  # as the base class has it
        if self.path.partition("?")[0] != self.server.path:
            self._text(HTTPStatus.NOT_FOUND, f"the metrics are at {self.server.path}\n")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        try:
            body = encode(Collected(self.server.collect()))
        except UnavailableError as exc:
            self._text(HTTPStatus.SERVICE_UNAVAILABLE, f"{exc.message}\n")
            return
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        self._answer(HTTPStatus.OK, headers, body)

    def do_HEAD(self) -> None:  # as the base class has it
        self.do_GET()

    def _text(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, {"Content-Type": "text/plain; charset=utf-8"}, text.encode())

    def _answer(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the base class has it
        log.debug("scrape", extra={"request": format % args})
