"""The settings of the plugin: the table `[plugins.otel]`."""

from __future__ import annotations

import os
import re
import stat
from typing import Annotated

from msgspec import Meta, Struct, field

_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+): *([\x20-\x7e]*)")

HeaderValue = Annotated[str, Meta(pattern=r"^[\x20-\x7e]*$(?!\n)", title="printable ASCII")]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent where, and how often."""

    endpoint: Annotated[
        str,
        Meta(
            description="URL the metrics are sent to, by OTLP over HTTP.",
            pattern=r"^https?://[^\s@]+$(?!\n)",
            title="an http or https URL without a password",
        ),
    ] = "http://127.0.0.1:4318/v1/metrics"
    interval_s: Annotated[
        float, Meta(description="Seconds between two sendings.", ge=1, le=86_400)
    ] = 60.0
    timeout_s: Annotated[
        float,
        Meta(description="Seconds one sending may take, all its tries together.", ge=0.1, le=600),
    ] = 10.0
    headers: Annotated[
        dict[str, HeaderValue],
        Meta(
            description="Headers sent along, as one for authorisation; they are never shown.",
            extra={"secret": True},
        ),
    ] = field(default_factory=dict)
    headers_file: Annotated[
        str,
        Meta(
            description="A file of such headers, one 'NAME: VALUE' a line, which only the server "
            "can read.",
            pattern=r"^(/[^\x00]*)?$(?!\n)",
            title="an absolute path, or nothing",
        ),
    ] = ""
    resource: Annotated[
        dict[str, str],
        Meta(description="Attributes that tell this server from others."),
    ] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Config(endpoint={self.endpoint!r}, headers=(hidden))"

    def all_headers(self) -> dict[str, str]:
        """Those of the settings and those of the file.

        Raises OSError or ValueError when the file cannot be used; its text is in neither.
        """
        if not self.headers_file:
            return dict(self.headers)
        with open(self.headers_file, encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ValueError(f"'{self.headers_file}' can be read by others: chmod 600 it")
            lines = [line.strip() for line in file]
        found = dict(self.headers)
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            header = _HEADER.fullmatch(line)
            if header is None:
                raise ValueError(f"'{self.headers_file}', line {number}: expected 'NAME: VALUE'")
            found[header[1]] = header[2]
        return found
