"""CURVE key pairs: made, shown as text, kept in files (only nacl makes and checks them)."""

from __future__ import annotations

import os

from msgspec import Struct

from descartesd.errors import StartupRefusedError, UnavailableError
from descartesd.keys.files import create_public, read_contents
from descartesd.keys.keyfile import create_key_text, fingerprint, read_key_text
from descartesd.keys.z85 import decode_key, encode_key

__all__ = [
    "CurveKeyPair",
    "create_key_file",
    "create_server_public",
    "fingerprint",
    "generate",
    "load_key_file",
    "pair_of",
    "read_server_public",
]

TITLE = "CURVE key"
SERVER_PUBLIC_FILE = "server.pub"


class CurveKeyPair(Struct, frozen=True):
    """32 bytes each; only the fingerprint shows in its repr."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"CurveKeyPair({fingerprint(self.public)})"

    @property
    def public_text(self) -> str:
        """The public key in Z85."""
        return encode_key(self.public)

    @property
    def secret_text(self) -> str:
        """The secret key in Z85."""
        return encode_key(self.secret)


def generate() -> CurveKeyPair:
    """Make a key pair."""
    from nacl.public import PrivateKey  # noqa: PLC0415  # profiles are read without it

    return _pair(PrivateKey.generate().encode())


def pair_of(secret: bytes) -> CurveKeyPair:
    """The pair of a secret key of 32 bytes."""
    return _pair(secret)


def create_key_file(path: str, pair: CurveKeyPair) -> None:
    """Write a key pair to a new secret file.

    Raises AlreadyExistsError when anything has that name, otherwise as `create_secret`.
    """
    create_key_text(path, TITLE, pair.public, pair.secret)


def load_key_file(path: str) -> CurveKeyPair:
    """Read a key pair back.

    Raises StartupRefusedError when others can read the file, when it is malformed or when its two
    keys do not belong together.
    """
    public, secret = read_key_text(path, TITLE)
    pair = _pair(secret)
    if pair.public != public:
        raise StartupRefusedError(f"the public key in '{path}' is not that of its secret key")
    return pair


def create_server_public(path: str, public_key: bytes) -> None:
    """Write a server's public key for the callers of its host: 40 characters and a newline."""
    create_public(path, f"{encode_key(public_key)}\n".encode())


def read_server_public(socket_path: str) -> bytes:
    """The key of the server behind a Unix socket, from `server.pub` beside it.

    Raises UnavailableError when there is none or when it is malformed.
    """
    path = os.path.join(os.path.dirname(socket_path), SERVER_PUBLIC_FILE)
    try:
        return decode_key(read_contents(path).data.decode().removesuffix("\n"))
    except OSError as exc:
        raise UnavailableError(
            f"no server at '{socket_path}': cannot read '{path}': {exc.strerror}",
            hint="start one with: descartesd --config FILE",
        ) from exc
    except ValueError as exc:
        raise UnavailableError(f"'{path}' is not a server's public key: {exc}") from exc


def _pair(secret: bytes) -> CurveKeyPair:
    from nacl.public import PrivateKey  # noqa: PLC0415  # profiles are read without it

    key = PrivateKey(secret)
    return CurveKeyPair(key.public_key.encode(), secret)
