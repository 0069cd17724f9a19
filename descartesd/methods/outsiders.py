"""Peers whom only a plugin knows: it is asked at the handshake, and again while they stay.

It fails closed: whom no plugin could vouch for is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from descartesd.api import KeyHolder
from descartesd.hooks.relay import Relay
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.revoked import RevocationList
from descartesd.keys.z85 import encode_key

_MOST_KEPT = 10_000
# Handshakes that may wait for a plugin; a further one is refused.
_MOST_ASKED = 64


class _Known(NamedTuple):
    """Who holds a key, and until when (`time.monotonic`) that holds."""

    holder: KeyHolder
    until: float


class Outsiders:
    """What plugins say about keys, kept for `kept_s`."""

    def __init__(
        self,
        relay: Relay,
        kept_s: float,
        revoked: RevocationList,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._kept_s = kept_s
        self._revoked = revoked
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        # Until when a key is refused; apart, so that strangers in numbers displace nobody known.
        self._refused: dict[bytes, float] = {}
        self._addresses: dict[bytes, str] = {}
        self._asking: dict[bytes, asyncio.Task[KeyHolder | None]] = {}

    def holder(self, key: bytes) -> KeyHolder | None:
        """Who holds the key of a peer that was let in; None when it is let in no longer.

        Of a decision that has become old another one is asked for, and it holds until then.
        """
        known = self._known.get(key)
        if known is None or self._is_revoked(key):
            return None
        if known.until <= self._clock():
            self._ask(key)
        return known.holder

    async def enter(self, address: str, key: bytes) -> KeyHolder | None:
        """Who holds the key of a peer that wants to come in; None to refuse it."""
        if self._is_revoked(key):
            return None
        known, now = self._known.get(key), self._clock()
        if known is not None and known.until > now:
            return known.holder
        if self._refused.get(key, now) > now:
            return None
        if key not in self._asking and len(self._asking) >= _MOST_ASKED:
            return None
        self._addresses[key] = address
        return await asyncio.shield(self._ask(key))

    def _is_revoked(self, key: bytes) -> bool:
        return self._revoked.find("", fingerprint(key)) is not None

    def _ask(self, key: bytes) -> asyncio.Task[KeyHolder | None]:
        task = self._asking.get(key)
        if task is None:
            # The peer may be gone before it is answered; it raises nothing.
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._answer(key))
            task.add_done_callback(lambda _: self._forget(key))
        return task

    def _forget(self, key: bytes) -> None:
        self._asking.pop(key, None)

    async def _answer(self, key: bytes) -> KeyHolder | None:
        address = self._addresses.get(key, "")
        holder = await self._relay.authenticate_key(encode_key(key), address)
        until = self._clock() + self._kept_s
        # The latest last.
        before = self._known.pop(key, None)
        if holder is None:
            self._addresses.pop(key, None)
            self._refused.pop(key, None)
            self._refused[key] = until
            _shorten(self._refused)
            return None
        if before is not None and before.holder == holder:
            # The same object, and so the same caller.
            holder = before.holder
        self._known[key] = _Known(holder, until)
        for forgotten in _shorten(self._known):
            self._addresses.pop(forgotten, None)
        return holder


def _shorten(kept: dict[bytes, Any]) -> list[bytes]:
    """Forget the oldest of too many; those."""
    forgotten = list(kept)[: max(len(kept) - _MOST_KEPT, 0)]
    for key in forgotten:
        del kept[key]
    return forgotten


def outsiders(relay: Relay, kept_s: float, revoked: RevocationList) -> Outsiders | None:
    """Who vouches for keys; None where no plugin does."""
    return Outsiders(relay, kept_s, revoked) if relay.has("authenticate_key") else None
