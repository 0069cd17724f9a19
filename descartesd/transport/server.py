"""The server's ROUTER, drained from its descriptor inside the event loop.

The invariants of this loop: the descriptor is edge-triggered, so it is drained until nothing is
left after the last receive or send; a message has at most three frames and the rest is dropped
piecemeal; nothing a request does may leave the drain by an exception.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq
from msgspec import Struct

from descartesd.observe.metrics import Traffic
from descartesd.transport.listeners import Listener
from descartesd.transport.monitor import Monitor, Tally
from descartesd.transport.unread import LARGE, Unread
from descartesd.transport.zap import DOMAIN

log = logging.getLogger(__name__)

_BUDGET = 64
# Plain numbers: combining the flags as enumeration members costs more than the call.
_NOW = int(zmq.NOBLOCK)
_MORE = int(zmq.SNDMORE) | _NOW
_SRCFD = int(zmq.SRCFD)
_USER_ID = b"User-Id"
_HANDSHAKE_MS = 3000
# A peer whose host is gone: asked after 3 s of silence, given up after three more questions.
_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_TRIES = 3, 2, 2
_UNACKNOWLEDGED_MS = 8000
_LINGER_MS = 1000


class Peer(Struct, frozen=True, gc=False):
    """Where a request came from; valid for answering that request, never as an identity."""

    route: bytes
    delimited: bool
    user_id: str
    fd: int


class Send(Protocol):
    """Sends one message: True, False when the peer does not read, None when it is gone.

    An item of a stream is counted as unread however small it is.
    """

    def __call__(self, peer: Peer, payload: bytes, is_item: bool = ..., /) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Socket limits: bytes of an inbound frame, messages queued each way per peer."""

    public_key: bytes
    secret_key: bytes
    max_request_bytes: int
    send_hwm: int
    receive_hwm: int

    def __repr__(self) -> str:
        return f"RouterOptions(max_request_bytes={self.max_request_bytes}, keys=(hidden))"


class RouterServer:
    """Receives requests of all clients and sends what they are answered."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        options: RouterOptions,
        *,
        on_request: Callable[[Peer, bytes], None],
        on_disconnected: Callable[[int], None],
        on_shed: Callable[[Peer, bytes], None],
        unread: Unread,
    ) -> None:
        self._socket = context.socket(zmq.ROUTER)
        # Without what pyzmq lays over it: options of other sockets, looked at for each frame.
        self._send = super(zmq.Socket, self._socket).send
        self._configure(options)
        self._on_request = on_request
        self._on_shed = on_shed
        self._on_disconnected = on_disconnected
        self._unread = unread
        self._monitor: Monitor | None = None
        self._bound: list[tuple[Listener, bytes]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining = False
        self._scheduled = False
        self._is_held = False
        self._discarding = False
        self._overlong = Tally("message.too_many_frames")
        # Descriptors of connections that are over, until another connection has their number.
        self._closed: set[int] = set()
        self.traffic = Traffic()

    def _configure(self, options: RouterOptions) -> None:
        sock = self._socket
        sock.linger = 0
        sock.curve_server = True
        sock.curve_publickey = options.public_key
        sock.curve_secretkey = options.secret_key
        sock.zap_domain = DOMAIN
        sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        sock.setsockopt(zmq.MAXMSGSIZE, options.max_request_bytes)
        sock.sndhwm = options.send_hwm
        sock.rcvhwm = options.receive_hwm
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.setsockopt(zmq.ROUTER_HANDOVER, 0)
        sock.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        # No heartbeats of our own: libzmq 4.3.5 aborts when one is due on a connection that was
        # closed while it was not read from. Clients send theirs, and the kernel asks the rest.
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_S)
        sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, _KEEPALIVE_EVERY_S)
        sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, _KEEPALIVE_TRIES)
        sock.setsockopt(zmq.TCP_MAXRT, _UNACKNOWLEDGED_MS)

    def start(self, loop: asyncio.AbstractEventLoop, listeners: Sequence[Listener]) -> None:
        """Serve on the listeners; the ZAP handler must be bound already."""
        self._loop = loop
        # First: nobody may connect unseen.
        self._monitor = Monitor(
            self._socket,
            on_accepted=self._closed.discard,
            on_disconnected=self._disconnected,
            handshake_s=_HANDSHAKE_MS / 1000,
        )
        self._monitor.start(loop)
        self._bind(listeners)
        loop.add_reader(self._socket.FD, self._drain)
        self._schedule()

    def _bind(self, listeners: Sequence[Listener]) -> None:
        for listener in listeners:
            self._socket.setsockopt(zmq.USE_FD, listener.duplicate())
            # With USE_FD the endpoint only chooses the transport.
            unix = listener.endpoint.startswith("ipc://")
            self._socket.bind("ipc:///nonexistent" if unix else "tcp://127.0.0.1:1")
            bound = self._socket.getsockopt(zmq.LAST_ENDPOINT)
            self._bound.append((listener, bytes(bound).rstrip(b"\0")))
        self._socket.setsockopt(zmq.USE_FD, -1)

    def rekey(self, public_key: bytes, secret_key: bytes) -> None:
        """Take another key (Z85): every connection there is ends, and new ones meet that key.

        Nobody is turned away meanwhile: the listening sockets stay open.
        """
        bound, self._bound = self._bound, []
        for _, endpoint in bound:
            self._socket.unbind(endpoint.decode())
        # libzmq copies the options of a socket at each bind.
        self._socket.curve_publickey = public_key
        self._socket.curve_secretkey = secret_key
        self._bind([listener for listener, _ in bound])
        self._schedule()

    def tell_failures(self) -> None:
        """Log the handshakes that fail from now on: the first is the server's own."""
        if self._monitor is not None:
            self._monitor.tell_failures()

    @property
    def failed_handshakes(self) -> Mapping[str, int]:
        """How many have failed since they are told, by cause."""
        return {} if self._monitor is None else self._monitor.failures

    def _disconnected(self, fd: int) -> None:
        self._closed.add(fd)
        self.traffic.clients.discard(fd)
        self._unread.drop(fd)
        self._on_disconnected(fd)

    def hold(self) -> None:
        """Take in nothing more: clients ask the next server again what they see unanswered."""
        self._is_held = True

    def close(self) -> None:
        """Stop receiving; what has been sent still goes out, for at most a second."""
        if self._socket.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket.FD)
        if self._monitor is not None:
            self._monitor.close()
        self._overlong.close()
        self._socket.close(linger=_LINGER_MS)

    def send(self, peer: Peer, payload: bytes, is_item: bool = False, /) -> bool | None:
        """Send one message: True, False when the peer does not read, None when it is gone."""
        sock = self._socket
        if sock.closed:
            return None
        try:
            send = self._send
            send(peer.route, _MORE)
            if peer.delimited:
                send(b"", _MORE)
            if len(payload) < LARGE and not is_item:
                send(payload, _NOW)
            else:
                send(self._unread.pack(peer.fd, payload), _NOW)
        except zmq.ZMQError as exc:
            return self._unsent(peer, payload, exc)
        finally:
            if not self._draining:
                self._schedule()
        self.traffic.bytes_sent += len(payload)
        return True

    def _unsent(self, peer: Peer, payload: bytes, exc: zmq.ZMQError) -> bool | None:
        if exc.errno == errno.EAGAIN:
            if self._loop is not None:
                self._loop.call_soon(self._shed, peer, payload)
            return False
        if exc.errno != errno.EHOSTUNREACH:
            log.error("send.failed", extra={"errno": exc.errno, "error": str(exc)})
        return None

    def _shed(self, peer: Peer, payload: bytes) -> None:
        # It may have gone since.
        if peer.fd in self.traffic.clients:
            self._on_shed(peer, payload)

    def _schedule(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._scheduled_drain)

    def _scheduled_drain(self) -> None:
        self._scheduled = False
        self._drain()

    def _drain(self) -> None:
        if self._socket.closed or self._is_held:
            return
        self._draining = True
        try:
            for _ in range(_BUDGET):
                if not self._receive():
                    return
        finally:
            self._draining = False
        self._schedule()

    def _receive(self) -> bool:
        """Take one message, or go on dropping one; False when nothing is left."""
        if self._discarding:
            return self._discard()
        sock = self._socket
        try:
            route = sock.recv(_NOW)
            frame = sock.recv(_NOW, copy=False)
        except zmq.Again:
            return False
        delimited = False
        if frame.more and not len(frame.buffer):
            delimited = True
            frame = sock.recv(_NOW, copy=False)
        if frame.more:
            self._discarding = True
            self.traffic.dropped += 1
            self._note_overlong(frame)
            return self._discard()
        try:
            user_id: str = frame.get(_USER_ID)  # text by RFC 27
            peer = Peer(route, delimited, user_id, frame.get(_SRCFD))
        except zmq.ZMQError:
            # ZAP names every peer it lets in: one without a name did not come through it.
            log.error("message.without_identity")  # noqa: TRY400  # the message says it all
            return True
        if peer.fd in self.traffic.clients or self._is_new(peer.fd):
            payload = frame.bytes
            self.traffic.bytes_received += len(payload)
            self._on_request(peer, payload)
        return True

    def _is_new(self, fd: int) -> bool:
        """Take in a client, unless it is known to have gone again."""
        if self._monitor is not None:
            # A new connection may have the number of one that is over.
            self._monitor.catch_up()
        if fd in self._closed:
            return False
        if self._monitor is not None:
            self._monitor.heard(fd)
        self.traffic.clients.add(fd)
        self.traffic.clients_seen += 1
        return True

    def _note_overlong(self, frame: zmq.Frame) -> None:
        if self._loop is not None:
            self._overlong.add(self._loop, str(frame.get("User-Id")))

    def _discard(self) -> bool:
        """Drop frames of an overlong message, a bounded number at a time."""
        for _ in range(_BUDGET):
            try:
                frame = self._socket.recv(_NOW, copy=False)
            except zmq.Again:
                return False
            if not frame.more:
                self._discarding = False
                return True
        return True
