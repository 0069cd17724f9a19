"""The exporter, sending to a real HTTP server that decodes what it gets."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from descartesd_otel.exporter import Sender
from descartesd_otel.settings import Config
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2

from descartesd.api import Distribution, MetricFamily, Sample, UnavailableError
from tests.support.agents import spec
from tests.support.eventually import eventually
from tests.support.server import Server

SECRET = "Bearer s3cr3t-t0ken"
FAMILIES = [
    MetricFamily(
        name="demo_requests_total",
        kind="counter",
        help="Requests.",
        samples=(Sample(value=3, labels={"code": "ok"}), Sample(value=1, labels={"code": "no"})),
    ),
    MetricFamily(name="demo_absent", kind="gauge", help="Nothing is known.", samples=()),
    MetricFamily(name="demo_size_bytes", kind="gauge", help="Size.", samples=(Sample(value=7),)),
    MetricFamily(
        name="demo_seconds",
        kind="histogram",
        help="Times.",
        samples=(Distribution(bounds=[0.1, 1.0], counts=[2, 3, 1], sum=4.5),),
    ),
]


class Receiver:
    """A collector: it keeps what it is sent."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[dict[str, str]] = []
        self.requests: list[ExportMetricsServiceRequest] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.headers.append({k.lower(): v for k, v in self.headers.items()})
                if receiver.status == 200:
                    receiver.requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def last(self) -> Mapping[str, metrics_pb2.Metric]:
        """The metrics sent last, by name."""
        (resource,) = self.requests[-1].resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def attributes(self) -> dict[str, str]:
        """Who has sent them."""
        (resource,) = self.requests[-1].resource_metrics
        return {each.key: each.value.string_value for each in resource.resource.attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@contextmanager
def sending(receiver: Receiver, **settings: Any) -> Iterator[Sender]:
    made = Sender(msgspec.convert({"endpoint": receiver.endpoint, **settings}, Config))
    yield made
    made.close()


def test_every_value_arrives_with_its_kind_and_unit(receiver: Receiver) -> None:
    with sending(receiver) as sender:
        assert sender.send(FAMILIES, 5_000)
    found = receiver.last()

    assert found.keys() == {"demo_requests_total", "demo_size_bytes", "demo_seconds"}
    requests = found["demo_requests_total"]
    assert requests.sum.is_monotonic
    assert requests.sum.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert {p.attributes[0].value.string_value: p.as_double for p in requests.sum.data_points} == {
        "ok": 3,
        "no": 1,
    }
    assert requests.sum.data_points[0].time_unix_nano == 5_000
    size = found["demo_size_bytes"]
    assert (size.unit, size.gauge.data_points[0].as_double) == ("By", 7)
    (times,) = found["demo_seconds"].histogram.data_points
    assert (found["demo_seconds"].unit, times.count, times.sum) == ("s", 6, 4.5)
    assert (list(times.bucket_counts), list(times.explicit_bounds)) == ([2, 3, 1], [0.1, 1.0])
    assert not times.HasField("min")
    assert not times.HasField("max")


def test_headers_of_settings_and_file_are_sent(receiver: Receiver, tmp_path: Path) -> None:
    secrets = tmp_path / "headers"
    secrets.write_text(f"Authorization: {SECRET}\n\n")
    secrets.chmod(0o600)
    with sending(receiver, headers={"X-Tenant": "a"}, headers_file=str(secrets)) as sender:
        sender.send(FAMILIES, 1)

    (sent,) = receiver.headers
    assert (sent["x-tenant"], sent["authorization"]) == ("a", SECRET)
    assert sent["content-type"] == "application/x-protobuf"
    assert sent["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("text", "mode", "fault"),
    [
        (f"Authorization: {SECRET}", 0o644, "can be read by others"),
        (f"{SECRET}", 0o600, "line 1: expected 'NAME: VALUE'"),
        (None, 0, "No such file"),
    ],
)
def test_file_of_headers_that_cannot_be_used_is_named_without_its_text(
    tmp_path: Path, text: str | None, mode: int, fault: str
) -> None:
    secrets = tmp_path / "headers"
    if text is not None:
        secrets.write_text(text)
        secrets.chmod(mode)

    with pytest.raises(UnavailableError, match=fault) as refused:
        Sender(Config(headers_file=str(secrets)))
    assert "s3cr3t" not in f"{refused.value}{refused.value.hint}"


def test_secret_headers_are_in_no_text_of_the_settings() -> None:
    config = Config(headers={"Authorization": SECRET})

    assert SECRET not in f"{config!r}{config}"


def test_collector_that_refuses_is_told_of_once_and_once_more_when_it_takes_again(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="descartesd.plugins.otel")
    with sending(receiver, timeout_s=0.5, headers={"Authorization": SECRET}) as sender:
        receiver.status = 400
        assert not sender.send(FAMILIES, 1)
        assert not sender.send(FAMILIES, 2)
        receiver.status = 200
        assert sender.send(FAMILIES, 3)

    ours = [each.message for each in caplog.records if each.name == "descartesd.plugins.otel"]
    assert ours == ["otel.cannot_send", "otel.sends_again"]
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"endpoint": "127.0.0.1:4318"}, "endpoint"),
        ({"endpoint": "http://user:password@host/"}, "endpoint"),
        ({"interval_s": 0}, "interval_s"),
        ({"headers": {"a": "line\nbreak"}}, "headers"),
        ({"headers_file": "relative"}, "headers_file"),
        ({"endpont": "http://a"}, "endpont"),
    ],
)
def test_setting_that_cannot_be_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=named):
        msgspec.convert(settings, Config)


def test_daemon_sends_while_it_runs_and_once_more_when_it_stops(receiver: Receiver) -> None:
    with Server() as server:
        with server.config.open("a") as file:
            file.write('\n[plugins]\nenabled = ["otel"]\n[plugins.otel]\ninterval_s = 3600\n')
            file.write(f'endpoint = "{receiver.endpoint}"\nresource = {{ team = "blue" }}\n')
            file.write(f'headers = {{ Authorization = "{SECRET}" }}\n')
        server.start()
        eventually(lambda: receiver.requests)
        with server.client() as client:
            server_id = client.server.hello().server_id
            shown = next(each for each in client.plugin.list().plugins if each.name == "otel")
            assert SECRET not in repr(shown)
            assert shown.config is not None
            assert shown.config["endpoint"] == receiver.endpoint
            for _ in range(5):
                client.server.hello()
            # What is read again within a tenth of a second is not read anew.
            client.agent.wait(id=client.agent.spawn(spec=spec("sleep", "0.2")).id)
        assert server.stop() == 0
        assert SECRET not in server.log_text()

    assert len(receiver.requests) == 2
    about = receiver.attributes()
    assert about["service.name"] == "descartesd"
    assert (about["service.instance.id"], about["team"]) == (server_id, "blue")
    hellos = [
        point.as_double
        for point in receiver.last()["descartesd_requests_total"].sum.data_points
        if {each.value.string_value for each in point.attributes} == {"server.hello", "ok"}
    ]
    assert hellos[0] >= 6
