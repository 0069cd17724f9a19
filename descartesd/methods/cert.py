"""The methods about certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from descartesd.errors import InvalidArgumentError, NotFoundError
from descartesd.keys.authority import DAY_S, Authority
from descartesd.keys.certificate import armour
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.revoked import Revocation
from descartesd.keys.trust import Identity, TrustStore
from descartesd.keys.z85 import decode_key
from descartesd.methods.call import Call, Handler
from descartesd.methods.revoking import Revoking, find, find_revoked
from descartesd.wire import cert as wire
from descartesd.wire.server import Empty


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
        revoking: Revoking,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._authority = authority
        self._introduction = introduction
        self._revoking = revoking
        self._clock = clock

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {
            "cert.sign": self.sign,
            "cert.list": self.list,
            "cert.show": self.show,
            "cert.revoke": self._revoking.revoke,
        }

    async def sign(self, _call: Call, params: wire.CertSign) -> wire.SignedCertificate:
        try:
            key = decode_key(params.public_key)
        except ValueError as exc:
            raise InvalidArgumentError(f"public_key: {exc}") from exc
        certificate = self._signed_before(key, params)
        if certificate is None:
            issued = self._authority.issue(
                params.name,
                key,
                params.role,
                now=self._clock(),
                days=params.days,
                renew_days=params.renew_days,
            )
            self._trust.add(issued)
            certificate = armour(issued)
        return wire.SignedCertificate(
            name=params.name,
            role=params.role,
            fingerprint=fingerprint(key),
            certificate=certificate,
            server_key=self._introduction.server_key,
            endpoints=self._introduction.endpoints,
        )

    def _signed_before(self, key: bytes, params: wire.CertSign) -> str | None:
        """The same certificate, if its answer was lost on the way: its name is not lost too."""
        identity = self._trust.lookup(key)
        if identity is None or (identity.name, identity.roles) != (params.name, (params.role,)):
            return None
        days = (identity.not_after - identity.not_before) // DAY_S
        renew_days = (identity.renew_until - identity.not_before) // DAY_S
        if (days, renew_days) != (params.days, params.renew_days or params.days):
            return None
        return self._trust.certificate_text(identity.name)

    def list(self, _call: Call, _params: Empty) -> wire.CertTable:
        self._trust.reload_if_changed()
        found = [self._info(each) for each in self._trust.identities()]
        found += [_gone(each) for each in self._trust.revoked.all()]
        return wire.CertTable(
            certificates=found, total=len(found), generation=self._trust.revoked.generation
        )

    def show(self, _call: Call, params: wire.CertRef) -> wire.CertInfo:
        self._trust.reload_if_changed()
        identity = find(self._trust.identities(), params)
        if identity is not None:
            return self._info(identity, self._trust.certificate_text(identity.name))
        revocation = find_revoked(self._trust.revoked.all(), params)
        if revocation is None:
            raise NotFoundError(
                "there is no such certificate", hint="see them: descartesctl cert list"
            )
        return _gone(revocation)

    def _info(self, identity: Identity, text: str | None = None) -> wire.CertInfo:
        now = self._clock()
        is_early, is_late = now < identity.not_before, now >= identity.not_after
        return wire.CertInfo(
            name=identity.name,
            status="not_yet_valid" if is_early else "expired" if is_late else "valid",
            serial=identity.serial,
            fingerprint=identity.fingerprint,
            role=identity.roles[0] if identity.roles else "",
            not_before=identity.not_before,
            not_after=identity.not_after,
            renew_until=identity.renew_until,
            authority=identity.authority,
            certificate=text,
        )


def _gone(revocation: Revocation) -> wire.CertInfo:
    return wire.CertInfo(
        name=revocation.name,
        status="revoked",
        serial=revocation.serial,
        fingerprint=revocation.fingerprint,
        revoked_at=revocation.time,
        generation=revocation.generation,
    )
