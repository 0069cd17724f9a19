"""Renewal: a certificate for the same key and name, signed anew over its holder's connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from descartesd.errors import ConflictError, InvalidArgumentError
from descartesd.keys.authorities import Authorities
from descartesd.keys.certificate import armour, utc
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.call import Call
from descartesd.methods.policy import Caller
from descartesd.methods.signing import Signing
from descartesd.wire import cert as wire
from descartesd.wire.server import Empty

log = logging.getLogger(__name__)

# From this part of its life on a certificate is renewed.
RENEW_FROM = 2 / 3
# A shorter time is not worth a new certificate.
_LEAST_GAIN_S = 60


class Renewing:
    """Carries `cert.renew` out, and tells when it is time for it."""

    def __init__(
        self,
        trust: TrustStore,
        signing: Signing,
        authorities: Authorities,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._signing = signing
        self._authorities = authorities
        self._clock = clock

    def is_due(self, caller: Caller) -> bool:
        """Whether it is time for a caller to renew, and he can."""
        identity = caller.certified
        if not isinstance(identity, Identity):
            return False
        if self._is_retiring(identity):
            return True
        life = identity.not_after - identity.not_before
        if self._clock() < identity.not_before + life * RENEW_FROM:
            return False
        return self._is_ours(identity) and self._gain_s(identity) >= _LEAST_GAIN_S

    async def renew(self, call: Call, _params: Empty) -> wire.SignedCertificate:
        """Answer `cert.renew`."""
        identity = call.caller.certified
        if not isinstance(identity, Identity):
            raise InvalidArgumentError("cert.renew is for who connects with a certificate of his")
        if not self._is_ours(identity):
            raise ConflictError(
                f"the certificate of '{identity.name}' was signed by an off-line authority, which"
                " alone can renew it",
                hint="sign it anew there: descartesctl cert sign",
            )
        if self._gain_s(identity) < _LEAST_GAIN_S and not self._is_retiring(identity):
            raise ConflictError(
                f"the certificate of '{identity.name}' can be renewed until"
                f" {utc(identity.renew_until)}, and is valid as long already",
                hint="an administrator can issue a new one: descartesctl cert issue",
            )
        certificate = self._trust.certificate(identity.name)
        signed = self._signing.renew(certificate)
        renewed = self._trust.take(signed)
        log.info("certificate.renewed", extra={"holder": renewed.name, "until": renewed.not_after})
        return self._signing.answer(renewed.name, renewed.roles[0], certificate.key, armour(signed))

    def _gain_s(self, identity: Identity) -> float:
        """By how much a new certificate would outlast this one."""
        life = identity.not_after - identity.not_before
        return min(self._clock() + life, identity.renew_until) - identity.not_after

    def _is_ours(self, identity: Identity) -> bool:
        return identity.authority == self._authorities.own_id or self._is_retiring(identity)

    def _is_retiring(self, identity: Identity) -> bool:
        """Whether the server has signed it with an authority it gives up."""
        return identity.authority in self._authorities.retiring_ids
