"""Reads a socket's monitor: which connections ended, which handshakes failed and why."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections import Counter
from collections.abc import Callable

import zmq

log = logging.getLogger(__name__)

_EVENT = struct.Struct("=HI")
_LOG_EVERY_S = 1.0
_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "no_detail",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "protocol",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "auth",
    int(zmq.EVENT_ACCEPT_FAILED): "accept",
}
_CRYPTOGRAPHIC = 0x11000001


class Monitor:
    """Counts failed handshakes and tells of closed connections by their descriptor."""

    def __init__(self, socket: zmq.Socket[bytes], on_disconnected: Callable[[int], None]) -> None:
        events = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_ACCEPTED
        for event in _FAILED:
            events |= event
        self._socket = socket.get_monitor_socket(events)
        self._watched = socket
        self._on_disconnected = on_disconnected
        self._loop: asyncio.AbstractEventLoop | None = None
        self._logged_at = float("-inf")
        self._unlogged = 0
        self.connections = 0
        self.failures: Counter[str] = Counter()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read."""
        self._loop = loop
        loop.add_reader(self._socket.FD, self._drain)
        loop.call_soon(self._drain)

    def close(self) -> None:
        """Stop reading; the watched socket must still be open."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.FD)
        self._watched.disable_monitor()
        self._socket.close(linger=0)
        self._loop = None

    def _drain(self) -> None:
        for _ in range(256):
            if self._loop is None:
                return
            try:
                event, _address = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._note(*_EVENT.unpack(event[: _EVENT.size]))
        if self._loop is not None:
            self._loop.call_soon(self._drain)

    def _note(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connections += 1
        elif event == zmq.EVENT_DISCONNECTED:
            self._on_disconnected(value)
        elif event in _FAILED:
            cause = "cryptographic" if value == _CRYPTOGRAPHIC else _FAILED[event]
            self.failures[cause] += 1
            self._log(cause)

    def _log(self, cause: str) -> None:
        # A stranger must not be able to fill the journal.
        now = time.monotonic()
        self._unlogged += 1
        if now - self._logged_at < _LOG_EVERY_S:
            return
        log.warning("handshake.failed", extra={"cause": cause, "count": self._unlogged})
        self._logged_at, self._unlogged = now, 0
