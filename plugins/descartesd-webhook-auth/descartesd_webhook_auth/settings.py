"""The settings of the plugin: the table `[plugins.webhook-auth]`."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import stat
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

_Url = Annotated[
    str,
    Meta(
        pattern=r"^(https?://[!-?A-~]+)?$(?!\n)",  # printable ASCII without '@'
        title="an http or https URL without a password, or nothing",
        max_length=2000,
    ),
]
_File = Annotated[str, Meta(pattern=r"^(/[^\x00]*)?$(?!\n)", title="an absolute path, or nothing")]
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")


class Target(NamedTuple):
    """A URL taken to pieces."""

    is_https: bool
    host: str
    port: int
    path: str


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raises ValueError when the settings do not go together."""

    url: Annotated[_Url, Meta(description="Whom to ask whether a request may go on.")]
    key_url: Annotated[
        _Url,
        Meta(
            description="Whom to ask who holds a key that no certificate of the server is for; "
            "empty: such keys are let in by nobody."
        ),
    ] = ""
    ca: Annotated[
        _File,
        Meta(description="Authorities (PEM) of the service; empty: those the system trusts."),
    ] = ""
    token_file: Annotated[
        _File,
        Meta(
            description="A file with the token the service is shown (`Authorization: Bearer`), "
            "which only the server can read; read anew for each question."
        ),
    ] = ""
    timeout_s: Annotated[
        float,
        Meta(
            description="Seconds the service may take; less than plugins.hook_timeout_s.",
            ge=0.05,
            le=60,
        ),
    ] = 1.5
    at_once: Annotated[
        int, Meta(description="Questions that are open at the service at once.", ge=1, le=1000)
    ] = 32
    methods: Annotated[
        list[str],
        Meta(
            description="Methods the service is asked about, by name or pattern (`agent.*`); any "
            "other is left to the roles alone."
        ),
    ] = field(default_factory=lambda: ["*"])
    exempt: Annotated[
        list[str],
        Meta(
            description="Identities the service is never asked about, such as `uid:0`: they can "
            "act while it is down."
        ),
    ] = []
    roles: Annotated[
        list[str],
        Meta(description="Roles the service at key_url may give to who holds a key."),
    ] = field(default_factory=lambda: ["observer", "operator"])

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("url: expected an http or https URL")
        for name, url in (("url", self.url), ("key_url", self.key_url)):
            if url:
                _check_url(name, url)

    def token(self) -> str:
        """The token; empty where none is configured.

        Raises OSError or ValueError when the file cannot be used; its text is in neither.
        """
        if not self.token_file:
            return ""
        with open(self.token_file, encoding="ascii", errors="replace") as file:
            about = os.fstat(file.fileno())
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise ValueError(f"'{self.token_file}' can be read by others: chmod 600 it")
            text = file.read(8192).strip()
        if _TOKEN.fullmatch(text) is None:
            raise ValueError(f"'{self.token_file}': expected one line with a bearer token")
        return text

    def tls(self) -> ssl.SSLContext:
        """How to speak TLS. Raises OSError when the authorities cannot be used."""
        return ssl.create_default_context(cafile=self.ca or None)


def target_of(url: str) -> Target:
    """A URL in pieces. Raises ValueError where it has no host or an impossible port."""
    parts = urlsplit(url)
    is_https = parts.scheme == "https"
    if not parts.hostname:
        raise ValueError("there is no host in it")
    path = parts.path or "/"
    if parts.query:
        path = f"{path}?{parts.query}"
    return Target(is_https, parts.hostname, parts.port or (443 if is_https else 80), path)


def _check_url(name: str, url: str) -> None:
    try:
        target = target_of(url)
    except ValueError as exc:
        raise ValueError(f"{name}: '{url}' is no URL: {exc}") from exc
    if not target.is_https and not _is_loopback(target.host):
        raise ValueError(
            f"{name}: expected https for the host '{target.host}': whoever is on the way could "
            "answer in its place"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
