"""Rotation: a new key beside the old one, and for a while both are good."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace

from descartesd.errors import DescartesError
from descartesd.keys.authorities import Authorities
from descartesd.keys.authority import create_authority, public_file
from descartesd.keys.hostkeys import HostKeys, refuse_credential
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import TrustStore
from descartesd.keys.z85 import encode_key
from descartesd.methods.call import Call
from descartesd.methods.signing import Signing
from descartesd.wire import cert as wire

log = logging.getLogger(__name__)


class Rotating:
    """Carries `cert.rotate` out; the authority's key is in the file `authority_file`."""

    def __init__(
        self,
        host: HostKeys,
        authority_file: str,
        authorities: Authorities,
        trust: TrustStore,
        signing: Signing,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._authority_file = authority_file
        self._authorities = authorities
        self._trust = trust
        self._signing = signing
        self._clock = clock

    async def rotate(self, call: Call, params: wire.CertRotate) -> wire.CertRotated:
        """Answer `cert.rotate`."""
        rotated = (
            self._rotate_host(params.overlap_s)
            if params.what == "host"
            else self._rotate_authority(params.overlap_s)
        )
        log.warning(
            "key.rotated",
            extra={
                "key": params.what,
                "fingerprint": rotated.fingerprint,
                "until": rotated.until,
                "identity": call.caller.id,
            },
        )
        return rotated

    def _rotate_host(self, overlap_s: float) -> wire.CertRotated:
        previous = self._host.current.public
        coming = self._host.rotate(overlap_s)
        return wire.CertRotated(
            what="host",
            fingerprint=fingerprint(coming.pair.public),
            public_key=coming.pair.public_text,
            previous=fingerprint(previous),
            until=coming.turn_at,
        )

    def _rotate_authority(self, overlap_s: float) -> wire.CertRotated:
        path = self._authority_file
        refuse_credential(path, "authority's key")
        fresh = f"{path}.next"
        # What an earlier rotation that was cut short has left.
        for left in (fresh, public_file(fresh)):
            if os.path.lexists(left):
                os.unlink(left)
        authority = replace(create_authority(fresh), roles=self._signing.roles)
        previous, until = self._signing.authority.public, int(self._clock() + overlap_s)
        try:
            # Believed as one to be given up before it is: cut short, nobody is locked out.
            self._authorities.trust(previous, until)
            os.replace(fresh, path)
            os.replace(public_file(fresh), public_file(path))
        except DescartesError:
            os.unlink(fresh)
            os.unlink(public_file(fresh))
            raise
        self._authorities.own = authority.public
        self._signing.authority = authority
        self._trust.reload_if_changed()
        return wire.CertRotated(
            what="authority",
            fingerprint=fingerprint(authority.public),
            public_key=encode_key(authority.public),
            previous=fingerprint(previous),
            until=until,
        )
