"""Answers libzmq's question whether a peer's key may connect (ZAP, RFC 27), in the server's loop.

Fails closed: without an answer of ours nobody enters (ZAP_ENFORCE_DOMAIN on the server's socket).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

import zmq

from descartesd.errors import ResourceExhaustedError
from descartesd.transport.monitor import Tally

log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"control"

# Raises ResourceExhaustedError for a peer that is let in again later.
# address as libzmq tells it ("127.0.0.1", or "localhost:UID:GID:PID" over a Unix socket) and the
# peer's 32-byte public key; the user id to let it in under, or None to refuse it
Authenticate = Callable[[str, bytes], str | Awaitable[str | None] | None]


_LOCAL = re.compile(r"localhost:(\d+):\d+:-?\d+")


def peer_of(address: str) -> str | None:
    """The identity the kernel vouches for over a Unix socket; None for another address."""
    local = _LOCAL.fullmatch(address)
    return None if local is None else f"uid:{local[1]}"


# status, text, user id
_Verdict = tuple[bytes, bytes, bytes]
_REFUSED: _Verdict = (b"400", b"not authorised", b"")


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
        # Handshakes that wait for somebody to be asked.
        self._waiting: set[asyncio.Task[None]] = set()
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
        for task in self._waiting:
            task.cancel()
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
        """The reply, or None where there is none yet."""
        if len(frames) < 8 or frames[2] != b"1.0":
            log.error("zap.malformed", extra={"frames": len(frames)})
            return None
        route, _, version, request_id, domain, address, _, mechanism, *credentials = frames
        begin = [route, b"", version, request_id]
        if mechanism != b"CURVE" or domain != DOMAIN or len(credentials) != 1:
            return self._reply(begin, _REFUSED)
        where, key = address.decode("utf-8", "replace"), credentials[0]
        try:
            found = self._authenticate(where, key)
        except Exception as exc:  # noqa: BLE001  # a failing look-up must not end the handler
            return self._reply(begin, self._failed(where, exc))
        if isinstance(found, str) or found is None:
            return self._reply(begin, self._verdict(where, key, found))
        if self._loop is not None:
            # It catches what it raises; a TaskGroup would have the server wait for a handshake.
            task = self._loop.create_task(self._later(begin, where, key, found))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        return None

    async def _later(
        self, begin: list[bytes], where: str, key: bytes, found: Awaitable[str | None]
    ) -> None:
        """Answer once it is known; nobody else's handshake waits for it."""
        try:
            verdict = self._verdict(where, key, await found)
        except Exception as exc:  # noqa: BLE001  # as above
            verdict = self._failed(where, exc)
        if not self._socket.closed:
            self._socket.send_multipart(self._reply(begin, verdict))
            # What came meanwhile may have been announced while this was sent.
            self._drain()

    def _reply(self, begin: list[bytes], verdict: _Verdict) -> list[bytes]:
        status, text, user_id = verdict
        if status == b"200":
            self.accepted += 1
        else:
            self.refused += 1
        return [*begin, status, text, user_id, b""]

    def _verdict(self, where: str, key: bytes, user_id: str | None) -> _Verdict:
        if not user_id:
            self.on_refused(where, key)
            return _REFUSED
        return b"200", b"OK", user_id.encode()

    def _failed(self, where: str, exc: Exception) -> _Verdict:
        if isinstance(exc, ResourceExhaustedError):
            # A temporary failure (RFC 27): the peer is not told that its key is no good.
            if self._loop is not None:
                self._throttled.add(self._loop, where)
            return b"300", b"too many handshakes", b""
        self.failed += 1
        log.error("zap.lookup_failed", exc_info=exc)
        return b"500", b"internal error", b""


def _nobody_asks(_address: str, _key: bytes) -> None:
    return None
