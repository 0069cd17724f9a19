"""The grammar of endpoints: tcp://HOST:PORT, an IPv6 address in brackets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

UNIX_PATH_MAX = 107  # sun_path is 108 bytes with its NUL: unix(7)

_TCP = re.compile(
    r"tcp://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]{1,253})):(?P<port>[0-9]{1,5})"
)
_NUMERIC = re.compile(r"[0-9.]+")
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_BYTE}(\.{_BYTE}){{3}}")
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, never bound


class TcpEndpoint(NamedTuple):
    """Where a server listens; `host` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every address of the host."""
        return self.host in _LOOPBACK

    def seen_from(self, host: str | None) -> TcpEndpoint:
        """What a client connects to: a wildcard becomes `host`, loopback when that is None."""
        if not self.is_wildcard:
            return self
        return self._replace(host=host or _LOOPBACK[self.host])


def parse_tcp(text: str) -> TcpEndpoint:
    """Take an endpoint apart; port 0 (any free one) is allowed.

    Raises ValueError naming what is expected.
    """
    match = _TCP.fullmatch(text)
    if match is None or not _is_host(match):
        raise ValueError(f"expected tcp://HOST:PORT, got '{text}'")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"expected a port from 0 to 65535, got '{text}'")
    return TcpEndpoint(match["v6"] or match["host"], port)


def seen_from_elsewhere(endpoints: Iterable[str], host: str) -> list[str]:
    """The endpoints a certificate is of use at: on the Unix socket the uid decides."""
    tcp = [endpoint for endpoint in endpoints if endpoint.startswith("tcp://")]
    return [str(parse_tcp(endpoint).seen_from(host)) for endpoint in tcp]


def _is_host(match: re.Match[str]) -> bool:
    if match["v6"] is not None:
        return _is_ipv6(match["v6"])
    host: str = match["host"]
    return not _NUMERIC.fullmatch(host) or _IPV4.fullmatch(host) is not None


def _is_ipv6(text: str) -> bool:
    import socket  # noqa: PLC0415  # 3 ms of every command, for the few that need it

    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def unix_path_fault(path: str) -> str | None:
    """Why a Unix socket cannot have this path, None when it can."""
    size = len(path.encode(errors="surrogateescape"))
    if size <= UNIX_PATH_MAX:
        return None
    return (
        f"the socket path '{path}' has {size} bytes, "
        f"expected at most {UNIX_PATH_MAX} (the kernel's limit for Unix sockets)"
    )
