"""Tokens: made for somebody who has no key yet, and used by him, once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from descartesd.errors import (
    AlreadyExistsError,
    ConflictError,
    DescartesError,
    InvalidArgumentError,
    UnauthenticatedError,
)
from descartesd.keys.authority import check_request, check_role
from descartesd.keys.join import JoinString
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.tokens import Token
from descartesd.keys.trust import TrustStore
from descartesd.keys.z85 import decode_key, encode_key
from descartesd.methods.call import Call
from descartesd.methods.guests import Guests
from descartesd.methods.signing import Signing, public_key
from descartesd.wire import cert as wire

log = logging.getLogger(__name__)

_ANY_NAME = "anybody"
_TOKEN_TTL_MAX_S = 604_800


class Enrolling:
    """Carries `cert.token` and `cert.enroll` out."""

    def __init__(
        self,
        guests: Guests,
        trust: TrustStore,
        signing: Signing,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._guests = guests
        self._trust = trust
        self._signing = signing
        self._clock = clock

    def token(self, call: Call, params: wire.CertToken) -> wire.CertJoin:
        """Answer `cert.token`: the only time the secret half of the key is told."""
        _check(params, self._signing.roles)
        introduction = self._signing.introduction
        expires_at = int(self._clock() + params.ttl_s) + 1
        token, pair = self._guests.tokens.create(
            kind="introduction" if params.introduction else "token",
            role=params.role,
            name=params.name,
            days=params.days,
            renew_days=params.renew_days,
            expires_at=expires_at,
            made_by=call.caller.id,
        )
        log.info(
            "token.made",
            extra={
                "fingerprint": token.fingerprint,
                "kind": token.kind,
                "role": params.role,
                "identity": call.caller.id,
            },
        )
        server_key = decode_key(introduction.server_key)
        return wire.CertJoin(
            join=JoinString(introduction.endpoints[0], server_key, pair.secret).text(),
            fingerprint=token.fingerprint,
            expires_at=expires_at,
            endpoints=introduction.endpoints,
        )

    def tokens(self) -> list[wire.TokenInfo]:
        """Those that are good for something."""
        return [
            wire.TokenInfo(
                fingerprint=each.fingerprint,
                kind=each.kind,
                role=each.role,
                name=each.name,
                expires_at=each.expires_at,
                used_by=fingerprint(decode_key(each.used_by)) if each.used_by else None,
            )
            for each in self._guests.open_tokens()
        ]

    async def enroll(self, call: Call, params: wire.CertEnroll) -> wire.SignedCertificate:
        """Answer `cert.enroll`: a certificate for the first key, and for no other one after it."""
        if not call.caller.id.startswith("token:"):
            raise InvalidArgumentError(
                "cert.enroll is for who connects with the key of a join string",
                hint="use it with: descartesctl login JOIN-STRING",
            )
        token = self._guests.token(call.caller.id)
        try:
            return self._enrolled(call, token, params)
        except (InvalidArgumentError, ConflictError, AlreadyExistsError):
            self._guests.note_mistake(call.caller.id)
            raise

    def _enrolled(
        self, call: Call, token: Token, params: wire.CertEnroll
    ) -> wire.SignedCertificate:
        key = public_key(params.public_key)
        if self._guests.tokens.knows(fingerprint(key)):
            raise InvalidArgumentError(
                "public_key: it is the key of a join string, which others have seen",
                hint="make a key pair of your own, whose secret half goes nowhere",
            )
        if token.used_by not in ("", encode_key(key)):
            raise self._refused(call, token, "used")
        answer = self._answer_again(token, key)
        if answer is None and token.is_done:
            # Somebody has removed it: that would be no end to it if this brought it back.
            raise self._refused(call, token, "its certificate is there no more")
        return answer or self._enroll(token, key, params)

    def _refused(self, call: Call, token: Token, cause: str) -> UnauthenticatedError:
        log.warning("enrolment.refused", extra={"token": token.fingerprint, "cause": cause})
        return self._guests.failed(call.caller.id)

    def _answer_again(self, token: Token, key: bytes) -> wire.SignedCertificate | None:
        """What was answered before, if the certificate is there."""
        identity = self._trust.lookup(key) if token.used_by else None
        text = None if identity is None else self._trust.certificate_text(identity.name)
        if identity is None or text is None:
            return None
        return self._signing.answer(identity.name, identity.roles[0], key, text)

    def _enroll(self, token: Token, key: bytes, params: wire.CertEnroll) -> wire.SignedCertificate:
        name = token.name or params.name or params.suggestion
        if name is None or (token.name and params.name not in (None, token.name)):
            raise InvalidArgumentError(
                f"name: expected '{token.name}', which the token is for"
                if token.name
                else "name: the token is for nobody in particular, so one is needed"
            )
        # First of all: whatever happens now, no other key gets anything for this token.
        used = self._guests.tokens.use(token, key)
        try:
            signed = self._signing.sign(
                wire.CertSign(
                    public_key=params.public_key,
                    name=name,
                    role=token.role or "",
                    days=token.days,
                    renew_days=token.renew_days,
                )
            )
        except DescartesError:
            if not token.used_by:
                self._guests.tokens.use(used, None)
            raise
        self._guests.tokens.finish(used)
        log.info("enrolled", extra={"holder": name, "token": token.fingerprint})
        return signed


def _check(params: wire.CertToken, roles: tuple[str, ...]) -> None:
    if params.introduction:
        if params.role is not None or params.name is not None:
            raise InvalidArgumentError(
                "an introduction key has neither role nor name: the certificates shown with it do"
            )
        return
    if params.role is None:
        raise InvalidArgumentError("role: expected the role of the certificate")
    check_request(params.name or _ANY_NAME, params.role, params.days, params.renew_days)
    check_role(params.role, roles)
    if params.ttl_s > _TOKEN_TTL_MAX_S:
        raise InvalidArgumentError(f"ttl_s: a token lasts {_TOKEN_TTL_MAX_S} s at most, 7 days")
