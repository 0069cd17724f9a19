"""The settings of the plugin: the table `[plugins.prometheus]`."""

from __future__ import annotations

import ssl
from typing import Annotated

from msgspec import Meta, Struct

_File = Annotated[str, Meta(pattern=r"^(/[^\x00]*)?$(?!\n)", title="an absolute path, or nothing")]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raises ValueError when the settings do not go together."""

    listen: Annotated[
        str,
        Meta(
            description="Address to listen on, HOST:PORT; an IPv6 address in brackets. Whoever "
            "can connect can read every metric.",
            pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):[0-9]{1,5}$(?!\n)",
            title="HOST:PORT",
        ),
    ] = "127.0.0.1:9464"
    path: Annotated[
        str,
        Meta(
            description="Path the metrics are at; there is nothing at any other.",
            pattern=r"^/[A-Za-z0-9/._-]*$(?!\n)",
            title="a path that begins with '/'",
        ),
    ] = "/metrics"
    tls_cert: Annotated[
        _File, Meta(description="Certificate chain (PEM) to serve HTTPS with; empty: plain HTTP.")
    ] = ""
    tls_key: Annotated[_File, Meta(description="Its secret key (PEM).")] = ""
    tls_client_ca: Annotated[
        _File,
        Meta(description="Authorities (PEM) of clients; with them a client needs a certificate."),
    ] = ""

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key are both needed, or none of them")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.port > 65535:
            raise ValueError(f"listen: the port is {self.port}, expected 65535 at most")

    @property
    def host(self) -> str:
        """The host part of `listen`, without brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of it."""
        return int(self.listen.rpartition(":")[2])

    def tls(self) -> ssl.SSLContext | None:
        """How to speak TLS; None for plain HTTP. Raises OSError when a file cannot be used."""
        if not self.tls_cert:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.tls_cert, self.tls_key)
        if self.tls_client_ca:
            context.load_verify_locations(self.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
