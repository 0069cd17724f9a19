"""Tells systemd how this service is, in the messages of sd_notify(3).

The only module that uses sdnotify, and no more of it than its socket: left to itself it writes
Latin-1, waits for ever while systemd does not read, passes no descriptors, swallows every error.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Sequence

import sdnotify

log = logging.getLogger(__name__)

NOTIFY_SOCKET = "NOTIFY_SOCKET"
# Enough for a line on any screen.
STATUS_MAX = 400
# What could not be sent is tried again with the next message; the oldest is given up first.
_KEPT = 64


class Notifier:
    """The way to systemd; one without a socket is told everything and does nothing."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._socket = sock
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._status: str | None = None
        self._has_failed = False
        # When it was last told that this process works, on the monotonic clock.
        self.watchdog_at: float | None = None

    @classmethod
    def from_environment(cls) -> Notifier:
        """The way NOTIFY_SOCKET names, if somebody listens there.

        Who is started from the shell of a service that has ended inherits one that leads nowhere.
        """
        if not os.environ.get(NOTIFY_SOCKET):
            return cls()
        try:
            sock: socket.socket = sdnotify.SystemdNotifier(debug=True).socket
        except OSError as exc:
            log.warning("notify.nobody", extra={"cause": exc.strerror or str(exc)})
            return cls()
        sock.setblocking(False)
        return cls(sock)

    @property
    def is_there(self) -> bool:
        """Whether systemd waits to be told."""
        return self._socket is not None

    def status(self, sentence: str) -> None:
        """Show a sentence in `systemctl status`; one shown already is not sent again."""
        if sentence != self._status:
            self._tell(STATUS=self._kept(sentence))

    def starting(self, sentence: str, timeout_s: float) -> None:
        """The start goes on, for at most this long until more is heard."""
        self._tell(STATUS=self._kept(sentence), EXTEND_TIMEOUT_USEC=_usec(timeout_s))

    def ready(self, sentence: str) -> None:
        """The service serves."""
        self._tell(READY="1", STATUS=self._kept(sentence))

    def reloading(self) -> None:
        """The configuration is being read again; `reloaded` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(RELOADING="1", MONOTONIC_USEC=str(now))

    def reloaded(self) -> None:
        """The reload is over, however it went: the service serves."""
        self._tell(READY="1")

    def stopping(self, sentence: str) -> None:
        """The service ends."""
        self._tell(STOPPING="1", STATUS=self._kept(sentence))

    def extend(self, timeout_s: float) -> None:
        """Ask for time: the start or the stop takes at most this long until more is heard."""
        self._tell(EXTEND_TIMEOUT_USEC=_usec(timeout_s))

    def failed(self, sentence: str, errno: int | None = None) -> None:
        """Say why the start has failed."""
        number = {} if errno is None else {"ERRNO": str(errno)}
        self._tell(STATUS=self._kept(sentence), **number)

    def watchdog(self) -> None:
        """This process works."""
        self._tell(WATCHDOG="1")
        self.watchdog_at = time.monotonic()

    def store(self, name: str, fd: int) -> None:
        """Have systemd keep a descriptor for the next start of this service."""
        self._send(_message(FDSTORE="1", FDNAME=name), (fd,))

    def remove(self, name: str) -> None:
        """Have systemd keep no descriptor of this name any more."""
        self._tell(FDSTOREREMOVE="1", FDNAME=name)

    def close(self) -> None:
        """Tell nothing more."""
        while self._unsent:
            self._drop_first()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _kept(self, sentence: str) -> str:
        self._status = sentence
        return sentence[:STATUS_MAX]

    def _tell(self, **fields: str) -> None:
        self._send(_message(**fields), ())

    def _send(self, message: bytes, fds: Sequence[int]) -> None:
        if self._socket is None:
            return
        if len(self._unsent) == _KEPT:
            self._drop_first()
        # A descriptor may be closed by the time it can be sent.
        self._unsent.append((message, tuple(map(os.dup, fds))))
        try:
            while self._unsent:
                self._transmit(self._socket, *self._unsent[0])
                self._drop_first()
        except BlockingIOError:
            # systemd is busy: what waits goes out with the next message.
            return
        except OSError as exc:
            self._drop_first()
            if not self._has_failed:
                log.error("systemd.not_told", extra={"cause": str(exc)})  # noqa: TRY400  # once
            self._has_failed = True

    @staticmethod
    def _transmit(sock: socket.socket, message: bytes, fds: tuple[int, ...]) -> None:
        if fds:
            socket.send_fds(sock, [message], fds)
        else:
            sock.send(message)

    def _drop_first(self) -> None:
        for fd in self._unsent.popleft()[1]:
            os.close(fd)


def _message(**fields: str) -> bytes:
    # A line is a field: a value of several lines would forge others.
    lines = (f"{name}={' '.join(value.split())}" for name, value in fields.items())
    return "\n".join(lines).encode("utf-8", "replace")


def _usec(seconds: float) -> str:
    return str(int(seconds * 1_000_000))
