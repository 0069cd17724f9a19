"""Certificate, version 1: a signed statement about a CURVE public key.

Bytes: msgpack `[body, signature]`. The signature (Ed25519, RFC 8032) is over CONTEXT and the exact
bytes of the body, never over a re-encoding. Text: a header for people, then base64.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import hashlib
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from descartesd.errors import UnauthenticatedError
from descartesd.keys.keyfile import fingerprint
from descartesd.wire.agent import Name

CONTEXT = b"descartesd-cert-v1\0"
ID_BYTES = 8
_SIGNATURE_BYTES = 64
_LINE = 64

Kind = Literal["client", "server", "authority"]
# As far as text can show it: the end of the year 9999.
Time = Annotated[int, Meta(ge=0, le=253_402_300_799)]
Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]


class Certificate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is stated. Times are seconds since the epoch, UTC; `not_after` itself is too late."""

    v: Literal[1] = 1
    kind: Kind
    serial: Id
    name: Name
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    roles: tuple[Name, ...]
    not_before: Time
    not_after: Time
    renew_until: Time
    authority: Id
    constraints: dict[str, Any] = {}

    def check_time(self, now: float) -> None:
        """Raise UnauthenticatedError when the certificate is not valid at `now`."""
        if now < self.not_before:
            raise _refused(
                "not_yet_valid",
                f"the certificate of '{self.name}' is not valid before {utc(self.not_before)}",
                hint="compare the clocks of this host and of the one that signed it",
            )
        if now >= self.not_after:
            raise _refused(
                "expired",
                f"the certificate of '{self.name}' expired at {utc(self.not_after)}",
                hint="an administrator can issue a new one: descartesctl cert issue",
            )


def utc(seconds: int) -> str:
    """A time as certificates show it: 2027-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_utc(text: str) -> int:
    """The seconds of a time as `utc` writes it; raises ValueError."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def authority_id(public_key: bytes) -> bytes:
    """How a certificate names the Ed25519 key that signed it."""
    return hashlib.sha256(public_key).digest()[:ID_BYTES]


def sign(certificate: Certificate, seed: bytes) -> bytes:
    """Sign with the Ed25519 key of this 32-byte seed."""
    from nacl.signing import SigningKey  # noqa: PLC0415  # only signing and checking need it

    body = msgspec.msgpack.encode(certificate)
    signature = SigningKey(seed).sign(CONTEXT + body).signature
    return msgspec.msgpack.encode([body, signature])


def verify(
    signed: bytes, authorities: Mapping[bytes, bytes], *, kind: Kind, now: float
) -> Certificate:
    """Check a certificate completely; `authorities` are public keys by their id.

    Raises UnauthenticatedError; `details["reason"]` is malformed, wrong_authority, altered,
    wrong_kind, unknown_constraint, not_yet_valid or expired.
    """
    certificate = verify_signature(signed, authorities, kind=kind)
    certificate.check_time(now)
    return certificate


def verify_signature(
    signed: bytes, authorities: Mapping[bytes, bytes], *, kind: Kind
) -> Certificate:
    """Check everything but the time."""
    body, signature = _open(signed)
    certificate = _decode(body)
    public_key = authorities.get(certificate.authority)
    if public_key is None:
        raise _refused(
            "wrong_authority",
            f"the certificate is signed by authority '{certificate.authority.hex()}', "
            "which is not trusted here",
        )
    _check_signature(body, signature, public_key)
    if certificate.kind != kind:
        raise _refused(
            "wrong_kind", f"the certificate is of kind '{certificate.kind}', expected '{kind}'"
        )
    if certificate.constraints:
        # Whoever set it wants it enforced: leaving it out would let in more than was signed.
        name = min(certificate.constraints)
        raise _refused("unknown_constraint", f"the certificate has an unknown constraint '{name}'")
    return certificate


def armour(signed: bytes) -> str:
    """The text form, with a header to search for.

    Raises UnauthenticatedError when the bytes are not a certificate; the signature is not checked.
    """
    certificate = _decode(_open(signed)[0])
    header = (
        f"# name={certificate.name} roles={','.join(certificate.roles)} "
        f"not_after={utc(certificate.not_after)} {fingerprint(certificate.key)}"
    )
    encoded = base64.b64encode(signed).decode()
    lines = [encoded[start : start + _LINE] for start in range(0, len(encoded), _LINE)]
    return "\n".join([header, *lines, ""])


def unarmour(text: str) -> bytes:
    """The bytes of the text form, which must be as `armour` writes it, header included.

    Raises UnauthenticatedError; the signature is not checked.
    """
    encoded = "".join(line for line in text.split("\n") if not line.startswith("#"))
    try:
        signed = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _malformed() from exc
    # The header is not signed: one that says something else must not be believed by a reader.
    if armour(signed) != text:
        raise _malformed()
    return signed


def terms(text: str) -> Certificate:
    """What a certificate states by its text; the signature is not checked.

    Raises UnauthenticatedError when it is malformed.
    """
    return _decode(_open(unarmour(text))[0])


def renewal_due(text: str) -> int | None:
    """When it is time to renew a certificate: at two thirds of its life; None if that cannot be."""
    certificate = terms(text)
    if certificate.renew_until <= certificate.not_after:
        return None
    life = certificate.not_after - certificate.not_before
    return certificate.not_before + life * 2 // 3


def _open(signed: bytes) -> tuple[bytes, bytes]:
    try:
        body, signature = msgspec.msgpack.decode(signed, type=tuple[bytes, bytes])
    except msgspec.DecodeError as exc:
        raise _malformed() from exc
    # One certificate has one form, or changed bytes could still be accepted.
    if msgspec.msgpack.encode([body, signature]) != signed:
        raise _malformed()
    return body, signature


def _decode(body: bytes) -> Certificate:
    try:
        return msgspec.msgpack.decode(body, type=Certificate)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _malformed() from exc


def _check_signature(body: bytes, signature: bytes, public_key: bytes) -> None:
    from nacl.exceptions import BadSignatureError  # noqa: PLC0415  # as in sign
    from nacl.signing import VerifyKey  # noqa: PLC0415  # as in sign

    if len(signature) != _SIGNATURE_BYTES:
        raise _malformed()
    try:
        VerifyKey(public_key).verify(CONTEXT + body, signature)
    except BadSignatureError as exc:
        raise _refused(
            "altered", "the certificate's signature does not match what it states"
        ) from exc


def _malformed() -> UnauthenticatedError:
    return _refused("malformed", "the certificate is malformed")


def _refused(reason: str, message: str, *, hint: str | None = None) -> UnauthenticatedError:
    return UnauthenticatedError(message, hint=hint, details={"reason": reason})
