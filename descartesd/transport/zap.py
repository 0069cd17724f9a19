"""Answers libzmq's question whether a peer's key may connect (ZAP, RFC 27), in the server's loop.

Fails closed: without an answer of ours nobody enters (ZAP_ENFORCE_DOMAIN on the server's socket).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

import zmq

from descartesd.errors import ResourceExhaustedError
from descartesd.transport.monitor import Tally

log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"control"

# Raises ResourceExhaustedError for a peer that is let in again later.
# address as libzmq tells it ("127.0.0.1", or "localhost:UID:GID:PID" over a Unix socket) and the
# peer's 32-byte public key; the user id to let it in under, or None to refuse it
Authenticate = Callable[[str, bytes], str | None]


_LOCAL = re.compile(r"localhost:(\d+):\d+:-?\d+")


def peer_of(address: str) -> str | None:
    """The identity the kernel vouches for over a Unix socket; None for another address."""
    local = _LOCAL.fullmatch(address)
    return None if local is None else f"uid:{local[1]}"


class ZapHandler:
    """Owns the ZAP endpoint of a context from `start` to `close`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        # Called with the address and the key of each peer that was refused.
        self.on_refused: Callable[[str, bytes], None] = _nobody_asks
        self._throttled = Tally("handshake.limited")
        self.accepted = 0
        self.refused = 0
        self.failed = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bind; must come before any server socket of the context is bound."""
        self._socket.bind(ENDPOINT)
        self._loop = loop
        loop.add_reader(self._socket.FD, self._drain)
        loop.call_soon(self._drain)

    def close(self) -> None:
        """Stop answering: from now on every handshake is refused."""
        if self._socket.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket.FD)
        self._throttled.close()
        self._socket.close(linger=0)

    def _drain(self) -> None:
        # The descriptor is edge-triggered: what is left unread here is never announced again.
        while not self._socket.closed:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            reply = self._answer(frames)
            if reply is not None:
                self._socket.send_multipart(reply)

    def _answer(self, frames: list[bytes]) -> list[bytes] | None:
        if len(frames) < 8 or frames[2] != b"1.0":
            log.error("zap.malformed", extra={"frames": len(frames)})
            return None
        route, _, version, request_id, domain, address, _, mechanism, *credentials = frames
        status, text, user_id = b"400", b"not authorised", b""
        if mechanism == b"CURVE" and domain == DOMAIN and len(credentials) == 1:
            status, text, user_id = self._look_up(address, credentials[0])
        if status == b"200":
            self.accepted += 1
        else:
            self.refused += 1
        return [route, b"", version, request_id, status, text, user_id, b""]

    def _look_up(self, address: bytes, key: bytes) -> tuple[bytes, bytes, bytes]:
        try:
            user_id = self._authenticate(address.decode("utf-8", "replace"), key)
        except ResourceExhaustedError:
            # A temporary failure (RFC 27): the peer is not told that its key is no good.
            if self._loop is not None:
                self._throttled.add(self._loop, address.decode("utf-8", "replace"))
            return b"300", b"too many handshakes", b""
        except Exception:  # a failing look-up refuses this peer and must not end the handler
            self.failed += 1
            log.exception("zap.lookup_failed")
            return b"500", b"internal error", b""
        if not user_id:
            self.on_refused(address.decode("utf-8", "replace"), key)
            return b"400", b"not authorised", b""
        return b"200", b"OK", user_id.encode()


def _nobody_asks(_address: str, _key: bytes) -> None:
    return None
