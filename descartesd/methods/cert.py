"""The methods about certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from descartesd.errors import NotFoundError
from descartesd.keys.revoked import Revocation
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.call import Call, Handler
from descartesd.methods.enrolling import Enrolling
from descartesd.methods.revoking import find, find_revoked
from descartesd.methods.signing import Signing
from descartesd.wire import cert as wire
from descartesd.wire.server import Empty


class CertMethods:
    """One function per method."""

    def __init__(
        self,
        trust: TrustStore,
        signing: Signing,
        enrolling: Enrolling,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._signing = signing
        self._enrolling = enrolling
        self._clock = clock

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {
            "cert.sign": self.sign,
            "cert.list": self.list,
            "cert.show": self.show,
            "cert.token": self._enrolling.token,
            "cert.enroll": self._enrolling.enroll,
        }

    async def sign(self, _call: Call, params: wire.CertSign) -> wire.SignedCertificate:
        return self._signing.sign(params)

    def list(self, _call: Call, _params: Empty) -> wire.CertTable:
        self._trust.reload_if_changed()
        found = [self._info(each) for each in self._trust.identities()]
        found += [_gone(each) for each in self._trust.revoked.all()]
        return wire.CertTable(
            certificates=found,
            total=len(found),
            generation=self._trust.revoked.generation,
            tokens=self._enrolling.tokens(),
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
