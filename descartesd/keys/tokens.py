"""Keys of people who have no certificate yet: one-use tokens, and introduction keys.

Each is a CURVE key pair. Its secret half is handed out once and kept nowhere; of its public half a
file in one directory says what it is good for and until when.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from descartesd.errors import NotFoundError, StartupRefusedError
from descartesd.keys.curve import CurveKeyPair, generate
from descartesd.keys.files import create_secret, read_secret, replace_secret
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.z85 import decode_key, encode_key
from descartesd.wire.agent import Name

SUFFIX = ".token"

Kind = Literal["token", "introduction"]


class Token(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key is good for. Keys are Z85; the time is in seconds since the epoch.

    `used_by` is the key that was certified with it, '' before that; it `is_done` once that key was
    let in. `made_by` is the identity that asked for it.
    """

    public_key: str
    kind: Kind = "token"
    role: Name | None = None
    name: Name | None = None
    days: int = 365
    renew_days: int | None = None
    expires_at: int
    used_by: str = ""
    is_done: bool = False
    made_by: str = ""

    @property
    def fingerprint(self) -> str:
        """How it is named to people."""
        return fingerprint(decode_key(self.public_key))


class TokenStore:
    """The tokens of a directory, which is made for the first of them."""

    def __init__(self, directory: str, *, clock: Callable[[], float] = time.time) -> None:
        # Files that are none, each with the reason.
        self.problems: tuple[str, ...] = ()
        self._directory = directory
        self._clock = clock
        self._by_key: dict[bytes, Token] = {}

    def load(self) -> None:
        """Read them all; what cannot be read is left out and named in `problems`."""
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
                data = read_secret(os.path.join(self._directory, name))
                token = msgspec.json.decode(data, type=Token)
                self._by_key[decode_key(token.public_key)] = token
            except StartupRefusedError as exc:
                problems.append(f"'{name}': {exc.message}")
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                problems.append(f"'{name}': not a token")
        self.problems = tuple(problems)

    def create(self, **terms: object) -> tuple[Token, CurveKeyPair]:
        """Make one, on disk before this returns; its secret half is kept nowhere.

        Raises as `create_secret`.
        """
        self.purge()
        pair = generate()
        token = msgspec.convert({"public_key": pair.public_text, **terms}, Token)
        with contextlib.suppress(OSError):
            # What is wrong with it is told of the file.
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
        create_secret(self._path(token), msgspec.json.encode(token) + b"\n")
        self._by_key[pair.public] = token
        return token, pair

    def find(self, public_key: bytes) -> Token | None:
        """The token with this key, unless its time is over."""
        token = self._by_key.get(public_key)
        return None if token is None or self._clock() >= token.expires_at else token

    def knows(self, key_fingerprint: str) -> bool:
        """Whether there is one of that fingerprint."""
        return any(each.fingerprint == key_fingerprint for each in self._by_key.values())

    def all(self) -> list[Token]:
        """Those whose time is not over, the one that ends first in front."""
        now = self._clock()
        found = [each for each in self._by_key.values() if now < each.expires_at]
        return sorted(found, key=lambda each: each.expires_at)

    def use(self, token: Token, public_key: bytes | None) -> Token:
        """Note, on disk, whose key was certified with it; None takes that back.

        Raises NotFoundError when it is there no more, otherwise as `replace_secret`.
        """
        used_by = "" if public_key is None else encode_key(public_key)
        return self._put(msgspec.structs.replace(token, used_by=used_by))

    def finish(self, token: Token) -> Token:
        """Note, on disk, that the key it was used by has been let in; raises as `use`."""
        return self._put(msgspec.structs.replace(token, is_done=True))

    def _put(self, token: Token) -> Token:
        key = decode_key(token.public_key)
        if key not in self._by_key:
            raise NotFoundError("the token is there no more")
        replace_secret(self._path(token), msgspec.json.encode(token) + b"\n")
        self._by_key[key] = token
        return token

    def purge(self) -> None:
        """Forget those whose time is over."""
        now = self._clock()
        for key, token in list(self._by_key.items()):
            if now >= token.expires_at:
                del self._by_key[key]
                try:
                    os.unlink(self._path(token))
                except OSError:
                    continue  # it is of no use to anybody

    def _path(self, token: Token) -> str:
        return os.path.join(self._directory, f"{decode_key(token.public_key).hex()[:32]}{SUFFIX}")
