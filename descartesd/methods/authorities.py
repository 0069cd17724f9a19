"""Which authorities are believed, and certificates they have signed elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable

from descartesd.errors import DescartesError, InvalidArgumentError
from descartesd.keys.authorities import Authorities, Trusted, public_of
from descartesd.keys.certificate import authority_id, unarmour
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.call import Call
from descartesd.methods.guests import Guests
from descartesd.wire import cert as wire

log = logging.getLogger(__name__)


class AuthorityMethods:
    """Carries `cert.authority`, `cert.add` and `cert.present` out.

    `expel` ends what those have open who are let in no longer.
    """

    def __init__(
        self,
        authorities: Authorities,
        trust: TrustStore,
        guests: Guests,
        expel: Callable[[], None],
    ) -> None:
        self._authorities = authorities
        self._trust = trust
        self._guests = guests
        self._expel = expel

    async def authority(self, call: Call, params: wire.CertAuthority) -> wire.AuthorityTable:
        """Answer `cert.authority`."""
        if params.trust is not None and params.distrust is not None:
            raise InvalidArgumentError("expected one of trust and distrust at a time")
        if params.trust is not None:
            trusted = self._authorities.trust(public_of(params.trust))
            self._tell("authority.trusted", trusted, call)
        if params.distrust is not None:
            self._tell("authority.distrusted", self._authorities.distrust(params.distrust), call)
        if (params.trust or params.distrust) is not None:
            self._trust.reload_if_changed()
            self._expel()
        return wire.AuthorityTable(authorities=[_info(each) for each in self._authorities.all()])

    async def add(self, call: Call, params: wire.CertAdd) -> wire.CertAdded:
        """Answer `cert.add`: an administrator is told what is wrong with it."""
        identity = self._trust.take(unarmour(params.certificate))
        log.info("certificate.added", extra={"holder": identity.name, "identity": call.caller.id})
        return _added(identity)

    async def present(self, call: Call, params: wire.CertPresent) -> wire.CertAdded:
        """Answer `cert.present`: what is wrong with it is told to the log alone."""
        if not call.caller.id.startswith("introduction:"):
            raise InvalidArgumentError(
                "cert.present is for who connects with an introduction key",
                hint="an administrator stores a certificate with: descartesctl cert add FILE",
            )
        self._guests.token(call.caller.id)
        try:
            identity = self._trust.take(unarmour(params.certificate))
        except DescartesError as exc:
            reason = (exc.details or {}).get("reason", exc.code)
            log.warning(
                "certificate.refused",
                extra={"identity": call.caller.id, "reason": reason, "cause": exc.message},
            )
            raise self._guests.failed(call.caller.id) from exc
        facts = {"holder": identity.name, "identity": call.caller.id}
        log.info("certificate.presented", extra=facts)
        return _added(identity)

    def _tell(self, event: str, trusted: Trusted, call: Call) -> None:
        shown = fingerprint(trusted.public)
        log.warning(event, extra={"fingerprint": shown, "identity": call.caller.id})


def _info(trusted: Trusted) -> wire.AuthorityInfo:
    return wire.AuthorityInfo(
        fingerprint=fingerprint(trusted.public),
        id=authority_id(trusted.public).hex(),
        is_own=trusted.is_own,
        until=trusted.until,
    )


def _added(identity: Identity) -> wire.CertAdded:
    return wire.CertAdded(
        name=identity.name, role=identity.roles[0], fingerprint=identity.fingerprint
    )
