"""Signs certificates and lets their holders in, once for each key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from descartesd.errors import InvalidArgumentError
from descartesd.keys.authority import DAY_S, Authority
from descartesd.keys.certificate import Certificate, armour
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import TrustStore
from descartesd.keys.z85 import decode_key
from descartesd.wire import cert as wire


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a new client must know of this server: its public key (Z85) and where it listens."""

    server_key: str
    endpoints: list[str]


class Signing:
    """The authority and the trust store, together."""

    def __init__(
        self,
        trust: TrustStore,
        authority: Authority,
        introduction: Introduction,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.introduction = introduction
        self._trust = trust
        # Another one once it was rotated.
        self.authority = authority
        self._clock = clock

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles this server has."""
        return self.authority.roles

    def sign(self, asked: wire.CertSign) -> wire.SignedCertificate:
        """Sign and let in; who asks for the same once more is given the same.

        Raises as `Authority.issue` and `TrustStore.add`.
        """
        key = public_key(asked.public_key)
        certificate = self._signed_before(key, asked)
        if certificate is None:
            issued = self.authority.issue(
                asked.name,
                key,
                asked.role,
                now=self._clock(),
                days=asked.days,
                renew_days=asked.renew_days,
            )
            self._trust.add(issued)
            certificate = armour(issued)
        return self.answer(asked.name, asked.role, key, certificate)

    def renew(self, certificate: Certificate) -> bytes:
        """Sign what a certificate states anew."""
        return self.authority.renew(certificate, now=self._clock())

    def answer(self, name: str, role: str, key: bytes, certificate: str) -> wire.SignedCertificate:
        """A certificate with what a profile needs beside it."""
        return wire.SignedCertificate(
            name=name,
            role=role,
            fingerprint=fingerprint(key),
            certificate=certificate,
            server_key=self.introduction.server_key,
            endpoints=self.introduction.endpoints,
        )

    def _signed_before(self, key: bytes, asked: wire.CertSign) -> str | None:
        """The same certificate, if its answer was lost on the way: its name is not lost too."""
        identity = self._trust.lookup(key)
        if identity is None or (identity.name, identity.roles) != (asked.name, (asked.role,)):
            return None
        days = (identity.not_after - identity.not_before) // DAY_S
        renew_days = (identity.renew_until - identity.not_before) // DAY_S
        if (days, renew_days) != (asked.days, asked.renew_days or asked.days):
            return None
        return self._trust.certificate_text(identity.name)


def public_key(text: str) -> bytes:
    """The bytes of a key a message names; raises InvalidArgumentError."""
    try:
        return decode_key(text)
    except ValueError as exc:
        raise InvalidArgumentError(f"public_key: {exc}") from exc
