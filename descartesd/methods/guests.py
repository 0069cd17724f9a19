"""Peers without a certificate who may do one thing: get one."""

from __future__ import annotations

import logging
import time

from descartesd.errors import UnauthenticatedError
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.tokens import Kind, Token, TokenStore
from descartesd.keys.trust import TrustStore
from descartesd.methods.failures import Failures
from descartesd.methods.grants import ENROLLING, PRESENTING, Grants
from descartesd.methods.policy import Caller

log = logging.getLogger(__name__)

_TOLD_EVERY_S = 60.0
# One introduction key serves many hosts, which may have one address and certificates that ended.
_OF_A_FLEET = 60
_GRANTS: dict[Kind, Grants] = {"token": ENROLLING, "introduction": PRESENTING}


class Guests:
    """Lets holders of tokens and introduction keys in, as `token:SHA256:…` and alike."""

    def __init__(
        self, tokens: TokenStore, trust: TrustStore, failures: Failures | None = None
    ) -> None:
        self.tokens = tokens
        self._trust = trust
        self._failures = failures or Failures()
        # Of each guest who is in, by his address: they close the door to him alone.
        self._attempts: dict[Kind, Failures] = {
            "token": Failures(),
            "introduction": Failures(_OF_A_FLEET),
        }
        self._keys: dict[str, bytes] = {}
        self._addresses: dict[str, str] = {}
        self._told: dict[bytes, float] = {}

    def enter(self, address: str, key: bytes) -> str | None:
        """The user id of a guest, or None to refuse who is none."""
        token = self._find(key)
        if token is None:
            self._tell_why(key)
            # Where there is nothing to guess it is no guess.
            if self.tokens.all():
                self._note_failure(address)
            return None
        if token.kind == "token" and self._failures.is_closed(address):
            return None
        user_id = f"{token.kind}:{fingerprint(key)}"
        self._keys[user_id], self._addresses[user_id] = key, address
        return user_id

    def knows(self, key: bytes) -> bool:
        """Whether it is the key of a guest."""
        return self._find(key) is not None

    def caller(self, user_id: str) -> Caller:
        """Who a guest is; raises UnauthenticatedError when his time is over, or he fails too often.

        Nobody else bounds what he sends: his key has no role, and may be known to many.
        """
        token = self.token(user_id)
        if self._attempts[token.kind].is_closed(self._whence(user_id)):
            raise refused()
        return Caller(user_id, token.kind, _GRANTS[token.kind], name=token.name)

    def token(self, user_id: str) -> Token:
        """What a guest's key is good for; raises UnauthenticatedError when his time is over."""
        key = self._keys.get(user_id)
        token = None if key is None else self._find(key)
        if token is None:
            raise refused()
        return token

    def open_tokens(self) -> list[Token]:
        """The keys that let somebody in now, the one that ends first in front."""
        revoked = self._trust.revoked
        return [t for t in self.tokens.all() if revoked.find("", t.fingerprint) is None]

    def failed(self, user_id: str) -> UnauthenticatedError:
        """Count an attempt that failed, and make the answer to it."""
        self._note_failure(self._addresses.get(user_id, user_id))
        self.note_mistake(user_id)
        return refused()

    def note_mistake(self, user_id: str) -> None:
        """Count an attempt that failed, if only by mistake: too many close the door to him."""
        kind: Kind = "token" if user_id.startswith("token:") else "introduction"
        self._attempts[kind].note(self._whence(user_id))

    def _whence(self, user_id: str) -> str:
        return f"{user_id} {self._addresses.get(user_id, '')}"

    def _find(self, key: bytes) -> Token | None:
        token = self.tokens.find(key)
        if token is None or self._trust.revoked.find("", token.fingerprint) is not None:
            return None
        return token

    def _tell_why(self, key: bytes) -> None:
        """Log, once a minute, why somebody known is not let in; strangers are only counted."""
        now = time.monotonic()
        if not self._trust.knows(key) or now - self._told.get(key, -_TOLD_EVERY_S) < _TOLD_EVERY_S:
            return
        self._told[key] = now
        log.warning("key.refused", extra={"cause": self._trust.explain(key)})

    def _note_failure(self, address: str) -> None:
        if self._failures.note(address):
            log.warning("enrolment.closed", extra={"address": address})


def refused() -> UnauthenticatedError:
    """The one answer to every key that is good for nothing, whatever the reason."""
    return UnauthenticatedError(
        "this key is not authorised", hint="ask an administrator for a new join string"
    )
