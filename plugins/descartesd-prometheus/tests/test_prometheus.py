"""The exporter, scraped over HTTP while a loop runs that it reads the metrics in."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from descartesd_prometheus.exporter import export
from descartesd_prometheus.settings import Config
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from descartesd.api import Distribution, MetricFamily, Sample, UnavailableError
from tests.support.certificates import Certificates
from tests.support.eventually import eventually
from tests.support.server import free_port

FAMILIES = [
    MetricFamily(
        name="demo_requests_total",
        kind="counter",
        help="Requests.",
        samples=(
            Sample(value=3, labels={"code": "ok"}),
            Sample(value=1, labels={"code": 'odd "\\\n'}),
        ),
    ),
    MetricFamily(name="demo_absent", kind="gauge", help="Nothing is known.", samples=()),
    MetricFamily(name="demo_up", kind="gauge", help="Up.", samples=(Sample(value=1),)),
    MetricFamily(
        name="demo_seconds",
        kind="histogram",
        help="Times.",
        samples=(
            Distribution(bounds=[0.1, 1.0], counts=[2, 3, 1], sum=4.5, labels={"method": "get"}),
        ),
    ),
]


class Source:
    """Knows which thread it is read in, and can be made slow."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def collect(self) -> Sequence[MetricFamily]:
        self.threads.add(threading.current_thread().name)
        return FAMILIES


class Scraped:
    """An exporter that serves."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, source: Source) -> None:
        self.config = config
        self.loop = loop
        self.source = source

    @property
    def url(self) -> str:
        scheme = "https" if self.config.tls_cert else "http"
        return f"{scheme}://{self.config.listen}{self.config.path}"

    def get(
        self, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
    ) -> tuple[str, bytes]:
        """The content type and the body."""
        request = urllib.request.Request(self.url, headers=headers or {})
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.headers["Content-Type"], answer.read()

    def status(self, path: str, method: str = "GET") -> int:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        finally:
            connection.close()


@contextmanager
def exporting(**settings: object) -> Iterator[Scraped]:
    config = msgspec.convert({"listen": f"127.0.0.1:{free_port()}", **settings}, Config)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="the loop")
    thread.start()
    source = Source()
    running = asyncio.run_coroutine_threadsafe(export(config, source), loop)
    try:
        eventually(lambda: _listens(config))
        yield Scraped(config, loop, source)
    finally:
        running.cancel()
        eventually(lambda: not asyncio.all_tasks(loop))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _listens(config: Config) -> bool:
    try:
        socket.create_connection((config.host, config.port)).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def scraped() -> Iterator[Scraped]:
    with exporting() as made:
        yield made


def test_text_format_has_every_value(scraped: Scraped) -> None:
    content_type, body = scraped.get()

    assert content_type.startswith("text/plain; version=0.0.4")
    found = {each.name: each for each in text_format(body.decode())}
    assert {(s.labels["code"], s.value) for s in found["demo_requests"].samples} == {
        ("ok", 3),
        ('odd "\\\n', 1),
    }
    assert [(s.name, s.labels.get("le"), s.value) for s in found["demo_seconds"].samples] == [
        ("demo_seconds_bucket", "0.1", 2),
        ("demo_seconds_bucket", "1.0", 5),
        ("demo_seconds_bucket", "+Inf", 6),
        ("demo_seconds_count", None, 6),
        ("demo_seconds_sum", None, 4.5),
    ]


def test_open_metrics_is_spoken_to_who_asks_for_it(scraped: Scraped) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    content_type, body = scraped.get({"Accept": accept})

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert {each.name for each in open_metrics(body.decode())} >= {"demo_requests", "demo_seconds"}


def test_answer_is_compressed_for_who_can_read_that(scraped: Scraped) -> None:
    _, body = scraped.get({"Accept-Encoding": "gzip"})

    assert b"demo_up 1.0" in gzip.decompress(body)


def test_nothing_is_served_at_any_other_path(scraped: Scraped) -> None:
    assert scraped.status("/metrics") == 200
    assert scraped.status("/metrics?name=x") == 200
    assert scraped.status("/") == 404
    assert scraped.status("/metrics/more") == 404
    assert scraped.status("/metrics", "POST") == 501
    assert scraped.status("/metrics", "HEAD") == 200


def test_metrics_are_read_in_the_loop_and_nowhere_else(scraped: Scraped) -> None:
    scraped.get()

    assert scraped.source.threads == {"the loop"}


def test_peer_that_says_nothing_keeps_nobody_waiting(scraped: Scraped) -> None:
    with socket.create_connection((scraped.config.host, scraped.config.port)):
        assert scraped.get()[1]


def test_who_never_comes_to_an_end_is_cut(
    scraped: Scraped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descartesd_prometheus.server._MOST_S", 0.5)
    with socket.create_connection((scraped.config.host, scraped.config.port)) as slow:

        def is_cut() -> bool:
            try:
                slow.sendall(b"x")
            except OSError:
                return True
            return _is_closed(slow)

        # It goes on to say something, far too slowly.
        assert eventually(is_cut, timeout=4, step=0.2)


def test_who_holds_every_thread_is_cut_and_the_exporter_serves_again(scraped: Scraped) -> None:
    address = (scraped.config.host, scraped.config.port)
    silent = [socket.create_connection(address) for _ in range(40)]
    try:
        # What is over the bound is closed at once.
        eventually(lambda: sum(_is_closed(each) for each in silent) >= 40 - 16)
    finally:
        for each in silent:
            each.close()
    eventually(lambda: _serves(scraped))


def _is_closed(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _serves(scraped: Scraped) -> bool:
    try:
        return bool(scraped.get()[1])
    except OSError:
        return False


def test_loop_that_hangs_is_told_as_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descartesd_prometheus.exporter._PATIENCE_S", 0.2)
    with exporting() as scraped:
        release = threading.Event()
        scraped.loop.call_soon_threadsafe(release.wait)
        try:
            with pytest.raises(urllib.error.HTTPError) as told:
                scraped.get()
            assert told.value.code == 503
            assert b"has not read its metrics" in told.value.read()
        finally:
            told.value.close()
            release.set()


def test_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"cannot serve metrics on {listen}: Address"):
            asyncio.run(export(Config(listen=listen), Source()))


def test_ipv6_addresses_stand_in_brackets() -> None:
    with exporting(listen=f"[::1]:{free_port()}") as scraped:
        assert b"demo_up" in scraped.get()[1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"listen": "9464"}, "listen"),
        ({"listen": "127.0.0.1:70000"}, "70000"),
        ({"path": "metrics"}, "path"),
        ({"tls_cert": "/a"}, "tls_key"),
        ({"tls_cert": "a", "tls_key": "/b"}, "tls_cert"),
        ({"tls_client_ca": "/a"}, "tls_client_ca"),
        ({"lissen": "127.0.0.1:1"}, "lissen"),
    ],
)
def test_setting_that_cannot_be_is_refused(settings: dict[str, str], named: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=named):
        msgspec.convert(settings, Config)


def test_by_default_only_this_host_can_connect() -> None:
    assert Config().host == "127.0.0.1"
    assert Config().port == 9464


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_with_tls_only_clients_with_a_certificate_are_served(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    with exporting(
        tls_cert=made.path("server.pem"),
        tls_key=made.path("server.key"),
        tls_client_ca=made.path("ca.pem"),
    ) as scraped:
        known = ssl.create_default_context(cafile=made.path("ca.pem"))
        known.load_cert_chain(made.path("client.pem"), made.path("client.key"))
        assert b"demo_up 1.0" in scraped.get(context=known)[1]

        stranger = ssl.create_default_context(cafile=made.path("ca.pem"))
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof"):
            scraped.get(context=stranger)
        assert b"demo_up 1.0" in scraped.get(context=known)[1]
