"""A client that the server does not know yet shows the certificate an off-line authority signed."""

from __future__ import annotations

from msgspec.structs import replace

from descartesd.keys.profile import Profile


def can_introduce(profile: Profile) -> bool:
    """Whether the profile has what that takes."""
    return profile.introduction_key is not None and profile.certificate is not None


def introduction(profile: Profile) -> Profile:
    """Who shows the certificate of a profile: the same client, with its introduction key."""
    from descartesd.keys.curve import pair_of  # noqa: PLC0415  # only this needs it
    from descartesd.keys.z85 import decode_key  # noqa: PLC0415

    pair = pair_of(decode_key(profile.introduction_key or ""))
    return replace(
        profile,
        public_key=pair.public_text,
        secret_key=pair.secret_text,
        certificate=None,
        introduction_key=None,
    )
