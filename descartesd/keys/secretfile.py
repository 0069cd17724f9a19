"""A random secret of a server's own, in a file that is made when it is first needed."""

from __future__ import annotations

import contextlib
import os

from descartesd.errors import DescartesError, StartupRefusedError, UnavailableError
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


class LateSecret:
    """Such a secret; one that cannot be made yet is made as soon as it is asked for and can be.

    Raises StartupRefusedError as `random_secret`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._secret: bytes | None = None
        with contextlib.suppress(UnavailableError):
            self()

    def __call__(self) -> bytes:
        """The secret; raises UnavailableError while it cannot be made."""
        if self._secret is None:
            try:
                self._secret = random_secret(self._path)
            except StartupRefusedError:
                raise
            except DescartesError as exc:
                raise UnavailableError(
                    exc.message,
                    hint="see that the disk of server.state_dir has room and can be written",
                ) from exc
        return self._secret
