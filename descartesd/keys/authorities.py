"""The authorities a server believes: its own, and those it was told to trust.

Files are `ID.pub` in one directory: the public key in Z85, and until when it is believed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from descartesd.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    StartupRefusedError,
)
from descartesd.keys.certificate import authority_id
from descartesd.keys.files import read_secret, replace_secret
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.z85 import decode_key, encode_key

SUFFIX = ".pub"
_UNTIL = "until="


class Trusted(NamedTuple):
    """An authority's Ed25519 public key; `until` in seconds since the epoch, None without an end.

    `is_own`: the server itself signs with it.
    """

    public: bytes
    until: int | None = None
    is_own: bool = False


class Authorities:
    """The server's own authority, and those of a directory, which may be missing."""

    def __init__(
        self, directory: str, own: bytes, *, clock: Callable[[], float] = time.time
    ) -> None:
        # Files that are none, each with the reason.
        self.problems: tuple[str, ...] = ()
        self._directory = directory
        self._clock = clock
        # The public key of the one the server signs with.
        self.own = own
        self._others: dict[bytes, Trusted] = {}

    def load(self) -> None:
        """Read them all; raises StartupRefusedError when the directory cannot be used."""
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            names = []
        except OSError as exc:
            raise StartupRefusedError(
                f"cannot use the directory '{self._directory}': {exc.strerror}"
            ) from exc
        problems = []
        for name in names:
            if not name.endswith(SUFFIX):
                continue
            try:
                found = _read(read_secret(os.path.join(self._directory, name)))
            except StartupRefusedError as exc:
                problems.append(f"'{name}': {exc.message}")
            except ValueError as exc:
                problems.append(f"'{name}': {exc}")
            else:
                self._others[authority_id(found.public)] = found
        self.problems = tuple(problems)

    def all(self) -> list[Trusted]:
        """The server's own, then those believed now."""
        now = self._clock()
        others = [
            each
            for each in self._others.values()
            if each.public != self.own and (each.until is None or now < each.until)
        ]
        return [Trusted(self.own, is_own=True), *others]

    def believed(self) -> Mapping[bytes, bytes]:
        """The public keys believed now, by their ids."""
        return {authority_id(each.public): each.public for each in self.all()}

    @property
    def own_id(self) -> str:
        """What certificates name the server's own authority by."""
        return _hex_id(self.own)

    @property
    def retiring_ids(self) -> set[str]:
        """What certificates name those by that are believed for a while only."""
        if not self._others:
            return set()
        others = self.all()[1:]
        return {_hex_id(each.public) for each in others if each.until is not None}

    def trust(self, public: bytes, until: int | None = None) -> Trusted:
        """Believe an authority from now on, on disk before this returns.

        Raises AlreadyExistsError when it is believed already, otherwise as `replace_secret`.
        """
        if any(each.public == public and each.until == until for each in self.all()):
            raise AlreadyExistsError(f"the authority {fingerprint(public)} is trusted already")
        trusted = Trusted(public, until)
        with suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
        line = encode_key(public) if until is None else f"{encode_key(public)} {_UNTIL}{until}"
        replace_secret(self._path(public), f"# {fingerprint(public)}\n{line}\n".encode())
        self._others[authority_id(public)] = trusted
        return trusted

    def distrust(self, key_fingerprint: str) -> Trusted:
        """Believe an authority no more.

        Raises NotFoundError, ConflictError for the server's own, OSError when it cannot be.
        """
        if key_fingerprint == fingerprint(self.own):
            raise ConflictError(
                f"{key_fingerprint} is this server's own authority",
                hint="give it a new one: descartesctl cert rotate authority",
            )
        for number, each in self._others.items():
            if fingerprint(each.public) == key_fingerprint:
                os.unlink(self._path(each.public))
                del self._others[number]
                return each
        raise NotFoundError(
            f"no authority {key_fingerprint} is trusted here",
            hint="see them: descartesctl cert authority",
        )

    def _path(self, public: bytes) -> str:
        return os.path.join(self._directory, f"{authority_id(public).hex()}{SUFFIX}")


def public_of(text: str) -> bytes:
    """The key of an authority's `.pub` file.

    Raises InvalidArgumentError.
    """
    try:
        return _read(text.encode()).public
    except ValueError as exc:
        raise InvalidArgumentError(f"this is no authority's public key: {exc}") from exc


def _read(data: bytes) -> Trusted:
    lines = data.decode("ascii").split("\n")
    words = " ".join(line for line in lines if not line.startswith("#")).split()
    if not words:
        raise ValueError("expected 40 characters of Z85")
    public = decode_key(words[0])
    if len(words) == 1:
        return Trusted(public)
    if len(words) > 2 or not words[1].startswith(_UNTIL):
        raise ValueError("expected a key in Z85, and perhaps until when it is trusted")
    return Trusted(public, int(words[1].removeprefix(_UNTIL)))


@lru_cache(maxsize=64)
def _hex_id(public: bytes) -> str:
    return authority_id(public).hex()
