"""Keeps a profile of use: renews its certificate, and learns the key its server will have next.

Once a day, and when the certificate is due, a client asks after its first call that succeeds. A
failure never fails that call: it is tried again an hour later, and `doctor` tells of it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from descartesd.errors import DescartesError
from descartesd.keys.profile import Profile, load_profile, replace_profile, with_server_key
from descartesd.wire.methods import CERT_RENEW, SERVER_HELLO, Method
from descartesd.wire.server import Empty, ServerHello

DEADLINE_S = 3.0
_EVERY_S = 86_400.0
_AGAIN_AFTER_S = 3600.0

# What to ask, and then the reply to it.
Steps = Generator[tuple[Method[Any, Any], Struct], Any, None]


class Upkeep:
    """That of one profile, which is rewritten in its file; without a file there is none."""

    def __init__(self, profile: Profile) -> None:
        self._path = profile.path
        self._due_at = time.monotonic() + _due_in_s(profile)

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._due_at

    def steps(self) -> Steps:
        """Ask the server and write down what it says; raises nothing."""
        self._due_at = time.monotonic() + _AGAIN_AFTER_S
        if self._path is None:
            return
        try:
            yield from self._steps(self._path)
        except (DescartesError, OSError) as exc:
            import logging  # noqa: PLC0415  # start-up time

            logging.getLogger(__name__).debug("upkeep.failed", extra={"cause": str(exc)})

    def _steps(self, path: str) -> Steps:
        hello: ServerHello = yield SERVER_HELLO, Empty()
        profile = found = load_profile(path)
        if hello.next_server_key is not None:
            profile = with_server_key(profile, hello.next_server_key)
        if hello.renew:
            signed = yield CERT_RENEW, Empty()
            profile = renewed(profile, signed.certificate)
        if profile != found:
            replace_profile(path, profile)
        else:
            os.utime(path)
        self._due_at = time.monotonic() + _due_in_s(profile)


def renewed(profile: Profile, certificate: str) -> Profile:
    """The profile with a new certificate."""
    from descartesd.keys.certificate import renewal_due  # noqa: PLC0415  # seldom needed

    return replace(profile, certificate=certificate, renew_at=renewal_due(certificate))


def _due_in_s(profile: Profile) -> float:
    if profile.path is None or profile.secret_key is None or not os.access(profile.path, os.W_OK):
        return math.inf
    now = time.time()
    due_at = os.stat(profile.path).st_mtime + _EVERY_S
    return min(due_at, profile.renew_at or math.inf) - now
