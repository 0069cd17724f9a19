"""Join strings: all that somebody without a certificate needs to get one.

    descartes1:HOST:PORT:SERVERKEY:TOKEN

Both keys are 32 bytes in unpadded base64url, 43 characters; an IPv6 HOST stands in brackets.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from descartesd.config.endpoint import parse_tcp
from descartesd.errors import InvalidArgumentError

_VERSION = "descartes1"
_FORM = "descartes1:HOST:PORT:SERVERKEY:TOKEN"
_CHARACTERS = 43


class JoinString(NamedTuple):
    """Where a server listens (tcp://HOST:PORT), its public key, and the token's secret key."""

    endpoint: str
    server_key: bytes
    token: bytes

    def __repr__(self) -> str:
        return f"JoinString({self.endpoint})"

    def text(self) -> str:
        """The string itself, which is a secret."""
        address = self.endpoint.removeprefix("tcp://")
        return f"{_VERSION}:{address}:{_encode(self.server_key)}:{_encode(self.token)}"


def parse_join(text: str) -> JoinString:
    """Take a join string apart, from its right.

    Raises InvalidArgumentError, which repeats nothing of it.
    """
    version, _, rest = text.strip().partition(":")
    parts = rest.rsplit(":", 2)
    if version != _VERSION or len(parts) != 3:
        raise InvalidArgumentError(
            f"this is no join string: expected {_FORM}",
            hint="an administrator makes one: descartesctl cert token --role R",
        )
    address, server_key, token = parts
    try:
        endpoint = parse_tcp(f"tcp://{address}")
    except ValueError:
        endpoint = None
    if endpoint is None or endpoint.port == 0:
        raise InvalidArgumentError(
            f"this is no join string: it names no HOST:PORT, expected {_FORM}"
        )
    return JoinString(str(endpoint), _decode("SERVERKEY", server_key), _decode("TOKEN", token))


def _encode(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _decode(part: str, text: str) -> bytes:
    try:
        key = base64.b64decode(f"{text}=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    # Spare bits of the last character must be zero: one key has one form.
    if len(text) != _CHARACTERS or len(key) != 32 or _encode(key) != text:
        raise InvalidArgumentError(
            f"this is no join string: its {part} is not {_CHARACTERS} characters of base64url",
            hint="copy all of it",
        )
    return key
