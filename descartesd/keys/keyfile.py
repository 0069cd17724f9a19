"""The text of a key file: a comment naming the key, then its two halves in Z85, as TOML."""

from __future__ import annotations

import binascii
import tomllib

from descartesd.config.toml_text import toml_text
from descartesd.errors import StartupRefusedError
from descartesd.keys.files import create_secret, read_secret
from descartesd.keys.z85 import decode_key, encode_key


def fingerprint(public_key: bytes) -> str:
    """How a key is named to people: `SHA256:` and 43 characters, as OpenSSH shows its keys."""
    import hashlib  # noqa: PLC0415  # 3 ms of every command, for the few that show a key

    digest = hashlib.sha256(public_key).digest()
    return f"SHA256:{binascii.b2a_base64(digest, newline=False).decode().rstrip('=')}"


def create_key_text(path: str, title: str, public: bytes, secret: bytes, further: str = "") -> None:
    """Write both halves (32 bytes each), and further lines of TOML, to a new secret file.

    Raises as `create_secret`.
    """
    text = (
        f"# descartesd {title} {fingerprint(public)}; keep it secret, mode 0600\n"
        f"public-key = {toml_text(encode_key(public))}\n"
        f"secret-key = {toml_text(encode_key(secret))}\n{further}"
    )
    create_secret(path, text.encode())


def read_key_text(path: str, title: str) -> tuple[bytes, bytes]:
    """Read both halves.

    Raises StartupRefusedError when others can read the file or it is malformed; the message
    repeats nothing of it.
    """
    data = read_secret(path)
    try:
        table = tomllib.loads(data.decode())
        return decode_key(table["public-key"]), decode_key(table["secret-key"])
    except (ValueError, KeyError, TypeError) as exc:
        raise StartupRefusedError(
            f"'{path}' is not a {title} file: expected public-key and secret-key in Z85"
        ) from exc
