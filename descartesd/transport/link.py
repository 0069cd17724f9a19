"""One attempt to connect and the connection it becomes: a DEALER and its monitor.

libzmq's own reconnection comes too late to matter. It never retries after a refused key, repeats a
wrong server key for ever, and keeps messages of the old connection; here one socket is one
connection, and each attempt ends in exactly one of the events below (seen with libzmq 4.3.5):

key refused by ZAP           HANDSHAKE_FAILED_AUTH with the ZAP status, DISCONNECTED
server holds another key     HANDSHAKE_FAILED_NO_DETAIL with EPIPE, DISCONNECTED
another protocol answers     DISCONNECTED after CONNECTED
accepted, then silent        HANDSHAKE_FAILED_NO_DETAIL with EAGAIN after HANDSHAKE_IVL
connection refused           CLOSED
name does not resolve        nothing at all
"""

from __future__ import annotations

import contextlib
import errno
import select
import struct
from typing import Literal, NamedTuple

import zmq

HANDSHAKE_MS = 3000
# Longer than any link is kept after its connection is lost.
_NEVER_MS = 3_600_000

_EVENT = struct.Struct("=HI")
_UP = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DENIED = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_NO_DETAIL = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_CLOSED = int(zmq.EVENT_CLOSED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_WATCHED = _UP | _DENIED | _NO_DETAIL | _PROTOCOL | _CLOSED | _DISCONNECTED
_ZAP_REFUSED = 400
_NOBLOCK = int(zmq.NOBLOCK)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)

# up: the handshake succeeded · lost: the connection ended after that · denied: the key is refused
# · undecided: the server could not check the key · broken: the handshake failed without a reason
# · silent: no handshake in time · unreachable: nobody accepts connections
Change = Literal["up", "lost", "denied", "undecided", "broken", "silent", "unreachable"]


class CurveKeys(NamedTuple):
    """Z85 keys of one connection."""

    server: bytes
    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return "CurveKeys((hidden))"


class Link:
    """Owns both sockets; no call blocks."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        keys: CurveKeys,
        *,
        heartbeat_s: float,
    ) -> None:
        """Begin to connect; raises zmq.ZMQError when that cannot even begin.

        A peer that is silent for thrice `heartbeat_s` is lost; 0: silence is no sign.
        """
        self.is_up = False
        self._is_over = False
        self._is_drained = False
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(context.socket(zmq.DEALER))
            self._monitor = opened.enter_context(context.socket(zmq.PAIR))
            _configure(self._socket, endpoint, keys)
            _keep_alive(self._socket, heartbeat_s)
            self._watch()
            self._socket.connect(endpoint)
            opened.pop_all()
        self.descriptors: tuple[int, int] = (self._socket.FD, self._monitor.FD)
        self._monitor_readable = select.poll()
        self._monitor_readable.register(self.descriptors[1], select.POLLIN)

    def _watch(self) -> None:
        address = f"inproc://link-{self._socket.FD}"
        self._socket.monitor(address, _WATCHED)
        self._monitor.linger = 0
        self._monitor.connect(address)

    def has_news(self) -> bool:
        """Whether something has happened to the connection that `change` would tell."""
        return not self._is_drained or bool(self._monitor_readable.poll(0))

    def change(self) -> Change | None:
        """The next thing that happened to the connection, None when nothing has."""
        # The descriptor tells of a new event only after everything before it has been read.
        while not self._is_over and not (self._is_drained and not self._monitor_readable.poll(0)):
            try:
                event = self._monitor.recv(_NOBLOCK)
                self._monitor.recv(_NOBLOCK)
            except zmq.Again:
                self._is_drained = True
                return None
            self._is_drained = False
            change = self._read(*_EVENT.unpack_from(event))
            if change is not None:
                self._is_over = change != "up"
                return change
        return None

    def _read(self, event: int, value: int) -> Change | None:
        if event == _UP:
            self.is_up = True
            return "up"
        if self.is_up:
            self.is_up = event != _DISCONNECTED
            return None if self.is_up else "lost"
        if event == _DENIED:
            return "denied" if value == _ZAP_REFUSED else "undecided"
        if event == _NO_DETAIL:
            return "silent" if value == errno.EAGAIN else "broken"
        return "unreachable" if event == _CLOSED else "broken"

    def send(self, payload: bytes) -> bool:
        """Hand one message over; False while the queue to the server is full."""
        try:
            self._socket.send(payload, _NOBLOCK)
        except zmq.Again:
            # libzmq looks at its inbox only now and then while sending: ask it to, and try again.
            if not int(self._socket.get(zmq.EVENTS)) & _POLLOUT:
                return False
            return self.send(payload)
        return True

    def is_readable(self) -> bool:
        """Whether a message waits; true as well after a send has swallowed the signal for it."""
        return int(self._socket.get(zmq.EVENTS)) & _POLLIN != 0

    def receive(self) -> bytes | None:
        """The next frame, None when there is none."""
        try:
            return self._socket.recv(_NOBLOCK)
        except zmq.Again:
            return None

    def close(self, linger_ms: int = 0) -> None:
        """Close; what was handed over still goes out, for at most `linger_ms`."""
        self.is_up = False
        self._is_over = True
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=linger_ms)


def _configure(socket: zmq.Socket[bytes], endpoint: str, keys: CurveKeys) -> None:
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    socket.curve_serverkey = keys.server
    socket.linger = 0
    # With IMMEDIATE, or without reconnection at all, libzmq ends the queue of a lost connection
    # together with the messages in it that have come and not been read.
    socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
    # Bounded by what was asked for and by credit. At a bound libzmq would stop to read, and 4.3.5
    # aborts when a heartbeat is due on a connection that is closed then.
    socket.rcvhwm = 0
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    # Only for an address that is one: with it a name may resolve to where nobody listens.
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))


def _keep_alive(socket: zmq.Socket[bytes], heartbeat_s: float) -> None:
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    if heartbeat_s:
        # ZMTP 3.1 (RFC 37): a PING each interval, answered within twice that or the peer is gone.
        interval_ms = max(round(heartbeat_s * 1000), 1)
        socket.setsockopt(zmq.HEARTBEAT_IVL, interval_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 2 * interval_ms)
        # After that much silence the server may take this side for gone.
        socket.setsockopt(zmq.HEARTBEAT_TTL, 2 * interval_ms)
