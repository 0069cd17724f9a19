"""Signs the head of the audit log, with a key made of the host's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

_PERSON = b"descartes-audit"


@dataclass(frozen=True, slots=True, repr=False)
class Sealer:
    """An Ed25519 key; only its public half shows in its repr. 32 bytes each."""

    public: bytes
    seed: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"Sealer({self.public.hex()})"

    def sign(self, message: bytes) -> bytes:
        """The signature (64 bytes) of a message."""
        from nacl.signing import SigningKey  # noqa: PLC0415  # only signing needs it

        return SigningKey(self.seed).sign(message).signature


def sealer_of(host_secret: bytes) -> Sealer:
    """The key that goes with a host's secret CURVE key: the same for the same host key."""
    from nacl.signing import SigningKey  # noqa: PLC0415  # only signing needs it

    seed = hashlib.blake2b(key=host_secret, digest_size=32, person=_PERSON).digest()
    return Sealer(SigningKey(seed).verify_key.encode(), seed)


def is_sealed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is that of the message by this public key."""
    from nacl.exceptions import BadSignatureError  # noqa: PLC0415  # only checking needs it
    from nacl.signing import VerifyKey  # noqa: PLC0415

    try:
        VerifyKey(public).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
