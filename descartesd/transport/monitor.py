"""Reads a socket's monitor: which connections ended, which handshakes failed and why."""

from __future__ import annotations

import asyncio
import errno
import logging
import struct
from collections import Counter
from collections.abc import Callable, Mapping

import zmq

log = logging.getLogger(__name__)

_EVENT = struct.Struct("=HI")
_LOG_EVERY_S = 1.0
# How much later than the end of a handshake its event may be read.
_GRACE_S = 1.0
# EVENT_HANDSHAKE_FAILED_PROTOCOL is not among them: telling of it, libzmq 4.3.5 forgets that it
# is an error and keeps a connection it has stopped to read from.
_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "broken_off",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "auth",
    int(zmq.EVENT_ACCEPT_FAILED): "accept",
}
_PROTOCOL = "protocol"
# How a handshake ended, told without the connection's descriptor.
_ENDS = (
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED),
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL),
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH),
)
# Told apart by the event's value: a peer that said nothing more until HANDSHAKE_IVL.
_TOLD_APART = {(int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL), errno.EAGAIN): "timeout"}


class Tally:
    """Logs what a peer can cause at will: its counts, at most one line a second, none left out."""

    def __init__(self, event: str) -> None:
        self._event = event
        # Told what is logged.
        self.on_told: Callable[[Mapping[str, int]], None] | None = None
        self._counts: Counter[str] = Counter()
        self._pause: asyncio.TimerHandle | None = None

    def add(self, loop: asyncio.AbstractEventLoop, what: str) -> None:
        """Count one; it is logged now, or with the others when the second is over."""
        self._counts[what] += 1
        if self._pause is None:
            self._tell(loop)

    def close(self) -> None:
        """Log what has not been."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._write()

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pause = loop.call_later(_LOG_EVERY_S, self._tell, loop) if self._counts else None
        self._write()

    def _write(self) -> None:
        if self._counts:
            log.warning(self._event, extra={"counts": dict(self._counts)})
            if self.on_told is not None:
                self.on_told(self._counts)
            self._counts.clear()


class Monitor:
    """Tells of connections by their descriptor and, when asked to, logs failed handshakes.

    A handshake that broke the protocol is known by what is not told of it: each other one ends in
    an event, and then its connection is heard of, or closed, or outlives the time a handshake may
    take.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        on_accepted: Callable[[int], None],
        on_disconnected: Callable[[int], None],
        handshake_s: float,
    ) -> None:
        """A handshake takes at most `handshake_s`."""
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        for event in _FAILED:
            events |= event
        address = f"inproc://monitor.{id(self)}"
        socket.monitor(address, events)
        self._socket = socket.context.socket(zmq.PAIR)
        # libzmq's I/O thread blocks on a monitor that is full: this one never is.
        self._socket.rcvhwm = 0
        self._socket.connect(address)
        self._watched = socket
        self._on_accepted = on_accepted
        self._on_disconnected = on_disconnected
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tally = Tally("handshake.failed")
        self._tells_failures = False
        # Handshakes that have failed since they are told, by cause.
        self.failures: Counter[str] = Counter()
        # Handshakes whose end was told, of connections that are among the next still.
        self._ended = 0
        # Connections of which nothing but their coming is known: when they came, eldest first.
        self._young: dict[int, float] = {}
        self._grown_s = handshake_s + _GRACE_S
        self._growing: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read."""
        self._loop = loop
        loop.add_reader(self._socket.FD, self._drain)
        loop.call_soon(self._drain)

    def tell_failures(self) -> None:
        """Log the handshakes that fail from now on."""
        self.catch_up()
        self._tells_failures = True

    def close(self) -> None:
        """Stop reading; the watched socket must still be open."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.FD)
        if self._growing is not None:
            self._growing.cancel()
        self._tally.close()
        self._watched.disable_monitor()
        self._socket.close(linger=0)
        self._loop = None

    def heard(self, fd: int) -> None:
        """A connection has sent its first message."""
        self._settle(fd)

    def catch_up(self) -> None:
        """Tell at once of everything that has happened so far."""
        while self._take():
            continue

    def _drain(self) -> None:
        for _ in range(256):
            if not self._take():
                return
        if self._loop is not None:
            self._loop.call_soon(self._drain)

    def _take(self) -> bool:
        """Read one event; False when there is none."""
        if self._loop is None:
            return False
        try:
            event, _address = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._note(*_EVENT.unpack(event[: _EVENT.size]))
        return True

    def _note(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._came(value)
            self._on_accepted(value)
            return
        if event == zmq.EVENT_DISCONNECTED:
            self._settle(value)
            self._on_disconnected(value)
            return
        if event in _ENDS:
            self._ended += 1
        if event in _FAILED:
            self._count(_TOLD_APART.get((event, value), _FAILED[event]))

    def _came(self, fd: int) -> None:
        # Not every connection's end is told: a new key ends those that were made with the old one.
        self._settle(fd)
        if self._loop is not None:
            self._young[fd] = self._loop.time()
            if self._growing is None:
                self._growing = self._loop.call_later(self._grown_s, self._grow, self._loop)

    def _grow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Settle the connections that are open for longer than a handshake may take."""
        self.catch_up()
        now = loop.time()
        grown = [fd for fd, came in self._young.items() if now - came >= self._grown_s]
        for fd in grown:
            self._settle(fd)
        self._growing = None
        if self._young:
            wait_s = self._grown_s - (now - next(iter(self._young.values())))
            self._growing = loop.call_later(wait_s, self._grow, loop)

    def _settle(self, fd: int) -> None:
        """Account for the end of a connection's handshake."""
        if self._young.pop(fd, None) is None:
            return
        if self._ended:
            self._ended -= 1
        else:
            self._count(_PROTOCOL)

    def _count(self, cause: str) -> None:
        if self._tells_failures and self._loop is not None:
            self.failures[cause] += 1
            self._tally.add(self._loop, cause)
