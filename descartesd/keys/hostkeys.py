"""The server's own CURVE key, and the next one from the time it was announced to its turn.

The next key stands beside the first, in `host.key.next`, with the time of its turn. What the first
key of all sealed must be told to be genuine later on too: that key is kept in `seal.key`.
"""

from __future__ import annotations

import logging
import os
import time
import tomllib
from collections.abc import Callable
from typing import NamedTuple

from descartesd.errors import AlreadyExistsError, ConflictError, StartupRefusedError
from descartesd.keys.curve import TITLE, CurveKeyPair, create_key_file, generate, load_key_file
from descartesd.keys.files import read_secret, sync_directory
from descartesd.keys.keyfile import create_key_text, fingerprint

log = logging.getLogger(__name__)

_TURN = "turn-at"
CREDENTIALS = "CREDENTIALS_DIRECTORY"


class NextKey(NamedTuple):
    """The key the server will have, and from when on, in seconds since the epoch."""

    pair: CurveKeyPair
    turn_at: int


class HostKeys:
    """The key in the file `path`, and the next one. Raises StartupRefusedError as `load_key_file`.

    A turn that came while nobody ran the server is taken when it starts.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self.current = load_key_file(path)
        self.next = _load_next(_beside(path))
        self.turn()

    def rotate(self, overlap_s: float) -> NextKey:
        """Make the next key, on disk before this returns; it has its turn after the overlap.

        Raises AlreadyExistsError while there is one, ConflictError for a key of systemd's.
        """
        refuse_credential(self._path, "host key")
        if self.next is not None:
            raise AlreadyExistsError(
                f"the next host key is {fingerprint(self.next.pair.public)} already",
                hint="rotate again when it has had its turn: descartesctl server info tells when",
            )
        seal = seal_file(self._path)
        if not os.path.lexists(seal):
            create_key_file(seal, self.current)
        pair = generate()
        turn_at = int(self._clock() + overlap_s)
        create_key_text(
            _beside(self._path), TITLE, pair.public, pair.secret, f"{_TURN} = {turn_at}\n"
        )
        self.next = NextKey(pair, turn_at)
        return self.next

    def turn(self) -> bool:
        """Let the next key take the place of this one, if it is time; whether it did.

        Where nothing can be written this one stays: clients know both.
        """
        if self.next is None or self._clock() < self.next.turn_at:
            return False
        try:
            os.replace(_beside(self._path), self._path)
            sync_directory(os.path.dirname(self._path) or ".")
        except OSError as exc:
            log.warning("host_key.not_turned", extra={"cause": exc.strerror})
            return False
        self.current, self.next = self.next.pair, None
        return True


def load_sealing_key(path: str) -> CurveKeyPair:
    """The key that seals the audit log: the host's first one, whatever it has now."""
    seal = seal_file(path)
    return load_key_file(seal if os.path.exists(seal) else path)


def seal_file(path: str) -> str:
    """Where the first host key stands once there is another one."""
    return os.path.join(os.path.dirname(path), "seal.key")


def refuse_credential(path: str, what: str) -> None:
    """Raise ConflictError where systemd has brought a key: the server cannot change it."""
    directory = os.environ.get(CREDENTIALS)
    if directory and os.path.dirname(path) == directory.rstrip("/"):
        name = os.path.basename(path)
        raise ConflictError(
            f"the {what} came as a systemd credential, '{path}', which the server cannot change",
            hint=f"replace {name} in the directory that LoadCredential= of the unit names, and"
            " restart; clients need the new public key before that",
        )


def _beside(path: str) -> str:
    return f"{path}.next"


def _load_next(path: str) -> NextKey | None:
    if not os.path.lexists(path):
        return None
    pair = load_key_file(path)
    turn_at = tomllib.loads(read_secret(path).decode()).get(_TURN)
    if type(turn_at) is not int:
        raise StartupRefusedError(f"'{path}' does not say when its turn is: expected {_TURN}")
    return NextKey(pair, turn_at)
