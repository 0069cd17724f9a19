"""Messages about certificates: who is let in, and who is let in no more."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from descartesd.wire.agent import FINGERPRINT_PATTERN, SERIAL_PATTERN, Name
from descartesd.wire.server import RoleName

PublicKey = Annotated[str, Meta(min_length=40, max_length=40)]
Days = Annotated[int, Meta(ge=1, le=3650)]
Fingerprint = Annotated[str, Meta(pattern=FINGERPRINT_PATTERN)]
Serial = Annotated[str, Meta(pattern=SERIAL_PATTERN)]


class CertSign(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sign a statement about a CURVE public key (Z85, 40 characters) and store it.

    Its holder may renew it for `renew_days` from now, by default not beyond its end. Asked for
    once more, the same certificate is the answer.
    """

    public_key: PublicKey
    name: Name
    role: RoleName
    days: Days = 365
    renew_days: Days | None = None


class SignedCertificate(Struct, frozen=True, kw_only=True):
    """The certificate's text, and what a profile needs beside it."""

    name: str
    role: RoleName
    fingerprint: str
    certificate: str
    server_key: str
    endpoints: list[str]


class CertInfo(Struct, frozen=True, kw_only=True):
    """A certificate; times are seconds since the epoch, `not_after` itself is too late.

    Of one that was revoked only what the revocation list has is known. `certificate` is its text,
    in the answer of `cert.show` alone.
    """

    name: str
    status: Literal["valid", "expired", "not_yet_valid", "revoked"]
    serial: str
    fingerprint: str
    role: str = ""
    not_before: int = 0
    not_after: int = 0
    renew_until: int = 0
    authority: str = ""
    revoked_at: int | None = None
    generation: int | None = None
    certificate: str | None = None


class TokenInfo(Struct, frozen=True, kw_only=True):
    """A key of somebody who has no certificate yet; `used_by` is the one certified with it.

    Keys are told by their fingerprints, times are seconds since the epoch.
    """

    fingerprint: str
    kind: Literal["token", "introduction"]
    role: str | None
    name: str | None
    expires_at: int
    used_by: str | None = None


class CertTable(Struct, frozen=True, kw_only=True):
    """Everybody with a certificate by name, expired ones included, then the revoked, oldest first.

    `generation` is that of the revocation list: the number of the newest revocation.
    """

    certificates: list[CertInfo]
    total: int
    generation: int
    tokens: list[TokenInfo] = []


class CertRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A certificate, by one of the three."""

    name: Name | None = None
    fingerprint: Fingerprint | None = None
    serial: Serial | None = None


class CertRevoke(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a certificate and its key in no more, for good; one of the first three says which.

    With `even_unknown` also one this server has never seen. With `kill_agents` its holder's agents
    are killed, otherwise they stay.
    """

    name: Name | None = None
    fingerprint: Fingerprint | None = None
    serial: Serial | None = None
    even_unknown: bool = False
    kill_agents: bool = False


class CertRevoked(Struct, frozen=True, kw_only=True):
    """What is revoked, its number in the list, and how many agents were killed.

    `join_strings` nobody had used yet were ended: those for the same name, and those its holder had
    made.
    """

    name: str
    serial: str
    fingerprint: str
    generation: int
    killed: int = 0
    join_strings: int = 0


class CertToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a token for somebody who gets a certificate by it: good once, for `ttl_s` seconds.

    `role`, `days` and `renew_days` are those of his certificate; without `name` he chooses it. With
    `introduction` it is no token but a key to present certificates with, as often as it takes.
    """

    role: RoleName | None = None
    ttl_s: Annotated[float, Meta(ge=1, le=315_360_000)] = 900.0
    introduction: bool = False
    name: Name | None = None
    days: Days = 365
    renew_days: Days | None = None


class CertJoin(Struct, frozen=True, kw_only=True):
    """The join string, which is a secret and told this once; the fingerprint of its token's key.

    It names the first of `endpoints`; another one can be put into it in its place.
    """

    join: str
    fingerprint: str
    expires_at: int
    endpoints: list[str]

    def __repr__(self) -> str:
        return f"CertJoin({self.fingerprint})"


class CertEnroll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Have a public key (Z85, 40 characters) certified, over a connection with a token's key.

    `suggestion` is the name to take where neither the token nor `name` says one.
    """

    public_key: PublicKey
    name: Name | None = None
    suggestion: Name | None = None


class CertAdd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Store a certificate that a trusted authority has signed elsewhere; its text."""

    certificate: Annotated[str, Meta(max_length=16_384)]


class CertPresent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show a certificate over a connection with an introduction key; its text.

    Its holder connects with his own key after that.
    """

    certificate: Annotated[str, Meta(max_length=16_384)]


class CertAdded(Struct, frozen=True, kw_only=True):
    """Who is let in from now on."""

    name: str
    role: str
    fingerprint: str


class CertAuthority(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the authorities; trust one more, by its public key (Z85), or one less."""

    trust: Annotated[str, Meta(max_length=4096)] | None = None
    distrust: Fingerprint | None = None


class AuthorityInfo(Struct, frozen=True, kw_only=True):
    """An authority whose certificates are let in, `until` that time or without an end.

    `is_own`: the server signs with it. Certificates name it by its `id`.
    """

    fingerprint: str
    id: str
    is_own: bool
    until: int | None = None


class AuthorityTable(Struct, frozen=True, kw_only=True):
    """Every authority that is trusted."""

    authorities: list[AuthorityInfo]


class CertRotate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give the server a new host key, or a new authority; both keys are good for `overlap_s`."""

    what: Literal["host", "authority"]
    overlap_s: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0


class CertRotated(Struct, frozen=True, kw_only=True):
    """The new key (Z85, and its fingerprint), and until when the previous one is good.

    Until then a host has the previous key and from then on the new one, which clients are told of
    in `server.hello`. An authority signs with the new key at once.
    """

    what: Literal["host", "authority"]
    fingerprint: str
    public_key: str
    previous: str
    until: int
