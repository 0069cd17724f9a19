"""Endpoints are tcp://HOST:PORT and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.config.endpoint import TcpEndpoint, parse_tcp, unix_path_fault


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://127.0.0.1:5555", "127.0.0.1", 5555),
        ("tcp://0.0.0.0:0", "0.0.0.0", 0),
        ("tcp://[::1]:65535", "::1", 65535),
        ("tcp://[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1", 1),
        ("tcp://build-7.example.org:5555", "build-7.example.org", 5555),
    ],
)
def test_an_endpoint_is_taken_apart_and_written_back(text: str, host: str, port: int) -> None:
    endpoint = parse_tcp(text)

    assert endpoint == (host, port)
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp://",
        "tcp://:5555",
        "tcp://host",
        "tcp://host:",
        "tcp://host:port",
        "host:5555",
        "ipc:///tmp/x.sock",
        "tcp://*:5555",
        "tcp://::1:5555",
        "tcp://[::1:5555",
        "tcp://[::g]:1",
        "tcp://[127.0.0.1]:1",
        "tcp://300.0.0.1:1",
        "tcp://256.0.0.1:1",
        "tcp://1.2.3.4.5:1",
        "tcp://01.2.3.4:1",
        "tcp://1.2.3:1",
        "tcp://a b:1",
        "tcp://host:65536",
        "tcp://host:123456",
        "tcp://host:-1",
        "tcp://host:5555\n",
        " tcp://host:5555",
        "tcp://höst:1",
    ],
)
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_tcp(text)


@settings(database=None)
@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_survives_the_round_trip(address: object, port: int) -> None:
    endpoint = TcpEndpoint(str(address), port)

    assert parse_tcp(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "host", "seen"),
    [
        ("tcp://0.0.0.0:1", "build-7", "tcp://build-7:1"),
        ("tcp://[::]:1", "build-7", "tcp://build-7:1"),
        ("tcp://0.0.0.0:1", None, "tcp://127.0.0.1:1"),
        ("tcp://[::]:1", None, "tcp://[::1]:1"),
        ("tcp://10.0.0.1:1", "build-7", "tcp://10.0.0.1:1"),
    ],
)
def test_a_wildcard_is_replaced_by_what_a_client_can_connect_to(
    text: str, host: str | None, seen: str
) -> None:
    assert str(parse_tcp(text).seen_from(host)) == seen


def test_a_socket_path_may_have_107_bytes_and_no_more() -> None:
    assert unix_path_fault("/" + "a" * 106) is None
    fault = unix_path_fault("/" + "ä" * 53 + "a")

    assert fault is not None
    assert "has 108 bytes" in fault
    assert "at most 107" in fault
