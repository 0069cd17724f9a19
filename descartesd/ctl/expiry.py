"""Tells `doctor` how long a profile's certificate is still of use."""

from __future__ import annotations

import time
from typing import NamedTuple

from descartesd.ctl.command import PROGRAM
from descartesd.ctl.text import age
from descartesd.errors import DescartesError
from descartesd.keys.certificate import terms
from descartesd.keys.profile import Profile

# So much of its life goes by before it is worth a word that nobody has renewed it.
_RENEWAL_LATE = 1 / 10


class Finding(NamedTuple):
    """Whether it is well, and what to do if not."""

    ok: bool
    detail: str
    hint: str | None = None


def of_certificate(profile: Profile) -> Finding:
    """Look at the certificate in a profile; from one third of its life left on a word is due."""
    try:
        certificate = terms(profile.certificate or "")
    except DescartesError as exc:
        return Finding(ok=False, detail=exc.message, hint="make a new profile")
    now = time.time()
    left, life = certificate.not_after - now, certificate.not_after - certificate.not_before
    if now < certificate.not_before:
        return Finding(False, "it is not valid yet", "compare this host's clock with the server's")
    if left <= 0:
        hint = f"an administrator issues a new one: {PROGRAM} cert issue {certificate.name}"
        return Finding(False, f"of '{certificate.name}', it expired {age(-left)} ago", hint)
    detail = f"of '{certificate.name}', valid for {age(left)}"
    if left * 3 > life:
        return Finding(True, detail)
    if profile.renew_at is None:
        hint = f"it cannot be renewed; an administrator issues a new one: {PROGRAM} cert issue"
        return Finding(True, f"{detail} only", hint)
    if now > profile.renew_at + life * _RENEWAL_LATE:
        why = f"it was to be renewed {age(now - profile.renew_at)} ago, and was not"
        return Finding(False, f"{detail} only: {why}", f"see why: {PROGRAM} cert renew")
    return Finding(True, f"{detail}; it is due to be renewed, which the next command does")
