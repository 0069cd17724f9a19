"""The authority: the Ed25519 key that signs certificates, on line, without a passphrase."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from descartesd.errors import DescartesError, InvalidArgumentError, StartupRefusedError
from descartesd.keys.certificate import ID_BYTES, Certificate, authority_id, sign
from descartesd.keys.files import create_public
from descartesd.keys.keyfile import create_key_text, fingerprint, read_key_text
from descartesd.keys.z85 import KEY_BYTES, encode_key
from descartesd.wire.agent import NAME_PATTERN
from descartesd.wire.methods import ROLES

TITLE = "authority key"
DAY_S = 86_400
DAYS_MAX = 3650
# Who acts in the audit log where the server itself does.
_OURSELVES = "server"


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """An authority that can sign for `roles`; only its fingerprint shows in its repr."""

    public: bytes
    seed: bytes = field(repr=False)
    roles: tuple[str, ...] = ROLES

    def __repr__(self) -> str:
        return f"Authority({fingerprint(self.public)})"

    @property
    def id(self) -> bytes:
        """What its certificates name it by."""
        return authority_id(self.public)

    def issue(
        self,
        name: str,
        public_key: bytes,
        role: str,
        *,
        now: float,
        days: int = 365,
        renew_days: int | None = None,
    ) -> bytes:
        """Sign a client certificate for a CURVE public key, valid from `now` for some days.

        Its holder may renew it for `renew_days` from now, by default not beyond its end.
        Raises InvalidArgumentError for a name, role or number of days that cannot be.
        """
        check_request(name, role, days, renew_days)
        check_role(role, self.roles)
        if len(public_key) != KEY_BYTES:
            raise InvalidArgumentError(
                f"expected a CURVE public key of {KEY_BYTES} bytes, got {len(public_key)}"
            )
        start = int(now)
        end = start + days * DAY_S
        certificate = Certificate(
            kind="client",
            serial=os.urandom(ID_BYTES),
            name=name,
            key=public_key,
            roles=(role,),
            not_before=start,
            not_after=end,
            renew_until=end if renew_days is None else start + renew_days * DAY_S,
            authority=self.id,
        )
        return sign(certificate, self.seed)

    def renew(self, certificate: Certificate, *, now: float) -> bytes:
        """Sign a statement anew: valid as long as it was, from `now`, and not past `renew_until`.

        It never ends before the one it replaces.
        """
        life = certificate.not_after - certificate.not_before
        end = min(int(now) + life, certificate.renew_until)
        is_longer = end > certificate.not_after
        renewed = msgspec.structs.replace(
            certificate,
            serial=os.urandom(ID_BYTES),
            not_before=int(now) if is_longer else certificate.not_before,
            not_after=max(end, certificate.not_after),
            authority=self.id,
        )
        return sign(renewed, self.seed)


def check_request(name: str, role: str, days: int, renew_days: int | None = None) -> None:
    """Raise InvalidArgumentError when no server could issue a certificate like this."""
    if not re.search(NAME_PATTERN, name):
        raise InvalidArgumentError(
            f"name '{name[:64]}' is not possible, expected a lower-case letter and up to 62 "
            "lower-case letters, digits, '.', '_' or '-'"
        )
    if name == _OURSELVES:
        raise InvalidArgumentError(
            f"name '{_OURSELVES}' is the server's own: the audit log calls it so",
            hint="choose another name",
        )
    if not re.search(NAME_PATTERN, role):
        check_role(role, ROLES)
    if not 1 <= days <= DAYS_MAX:
        raise InvalidArgumentError(f"expected 1 to {DAYS_MAX} days, got {days}")
    if renew_days is not None and not days <= renew_days <= DAYS_MAX:
        raise InvalidArgumentError(
            f"renewable for {renew_days} days: expected no less than it is valid, {days}, and no"
            f" more than {DAYS_MAX}"
        )


def check_role(role: str, roles: Sequence[str]) -> None:
    """Raise InvalidArgumentError for a role a server does not have, naming those it has."""
    if role not in roles:
        *known, last = roles
        raise InvalidArgumentError(
            f"unknown role '{role[:64]}', expected {', '.join(known)} or {last}",
            hint="roles of a server's own are defined by its configuration: [policy.roles.NAME]",
        )


def create_authority(path: str) -> Authority:
    """Make an authority: its secret in a new file `path`, its public key beside it in `.pub`.

    Raises AlreadyExistsError when either exists, otherwise as `create_secret`; then neither is
    left.
    """
    authority = authority_of(os.urandom(32))
    create_key_text(path, TITLE, authority.public, authority.seed)
    try:
        create_public(public_file(path), f"{encode_key(authority.public)}\n".encode())
    except DescartesError:
        os.unlink(path)
        raise
    return authority


def public_file(path: str) -> str:
    """Where the public key of the authority whose secret is at `path` stands."""
    return f"{path.removesuffix('.key')}.pub"


def load_authority(path: str) -> Authority:
    """Read an authority back.

    Raises StartupRefusedError when others can read the file, when it is malformed or when its two
    keys do not belong together.
    """
    public, seed = read_key_text(path, TITLE)
    authority = authority_of(seed)
    if authority.public != public:
        raise StartupRefusedError(f"the public key in '{path}' is not that of its secret key")
    return authority


def authority_of(seed: bytes) -> Authority:
    """The authority of a 32-byte Ed25519 seed."""
    from nacl.signing import SigningKey  # noqa: PLC0415  # only signing and checking need it

    return Authority(SigningKey(seed).verify_key.encode(), seed)
