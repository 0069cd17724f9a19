"""A random secret of a server's own, in a file that is made when it is first needed."""

from __future__ import annotations

import os

from descartesd.errors import StartupRefusedError
from descartesd.keys.files import create_secret, read_secret

SECRET_BYTES = 32


def random_secret(path: str) -> bytes:
    """The 32 bytes in a file, made now where there is none.

    Raises StartupRefusedError when others can read the file or it is of another size, otherwise as
    `create_secret`.
    """
    if not os.path.lexists(path):
        create_secret(path, os.urandom(SECRET_BYTES))
    secret = read_secret(path)
    if len(secret) != SECRET_BYTES:
        raise StartupRefusedError(
            f"'{path}' has {len(secret)} bytes, expected {SECRET_BYTES}",
            hint="remove it, and a new one is made; requests under a key from before are conflicts",
        )
    return secret
