"""The methods about certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from descartesd.errors import InvalidArgumentError
from descartesd.keys.authority import Authority
from descartesd.keys.certificate import armour
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import TrustStore
from descartesd.keys.z85 import decode_key
from descartesd.methods.call import Call, Handler
from descartesd.wire import server as wire


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a new client must know of this server: its public key (Z85) and where it listens."""

    server_key: str
    endpoints: list[str]


class CertMethods:
    """One function per method."""

    def __init__(
        self,
        trust: TrustStore,
        authority: Authority,
        introduction: Introduction,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._authority = authority
        self._introduction = introduction
        self._clock = clock

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"cert.sign": self.sign}

    async def sign(self, _call: Call, params: wire.CertSign) -> wire.SignedCertificate:
        try:
            key = decode_key(params.public_key)
        except ValueError as exc:
            raise InvalidArgumentError(f"public_key: {exc}") from exc
        issued = self._authority.issue(
            params.name, key, params.role, now=self._clock(), days=params.days
        )
        self._trust.add(issued)
        return wire.SignedCertificate(
            name=params.name,
            role=params.role,
            fingerprint=fingerprint(key),
            certificate=armour(issued),
            server_key=self._introduction.server_key,
            endpoints=self._introduction.endpoints,
        )
