"""Peers that do not read: what they ask is dropped, and they are told once they read again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from descartesd.errors import ResourceExhaustedError
from descartesd.transport.monitor import Tally
from descartesd.transport.server import Peer, Send
from descartesd.wire import codec

_OWED = 1000

_Id = str | int | None


class Shed:
    """Who does not read now, by descriptor, with the requests whose answers were dropped."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.peers: dict[int, tuple[Peer, dict[_Id, None]]] = {}
        self._tally = Tally("peer.shed")
        self.seen = 0

    def add(self, peer: Peer, requests: Iterable[_Id]) -> None:
        """Note requests that are not answered; beyond a thousand nobody is told of them."""
        if peer.fd not in self.peers:
            self.peers[peer.fd] = (peer, {})
            self.seen += 1
            self._tally.add(asyncio.get_running_loop(), peer.user_id)
        owed = self.peers[peer.fd][1]
        for request_id in requests:
            if len(owed) < _OWED:
                owed[request_id] = None

    def settle(self) -> None:
        """Tell whoever reads again what was dropped, and serve it from then on."""
        for fd, (peer, owed) in tuple(self.peers.items()):
            if self._is_even(peer, owed):
                del self.peers[fd]

    def _is_even(self, peer: Peer, owed: dict[_Id, None]) -> bool:
        """Tell what was dropped; whether everything is told, or nobody is there any more."""
        for request_id in tuple(owed):
            told = self._send(peer, codec.failure(request_id, _dropped()))
            if not told:
                return told is None
            del owed[request_id]
        return True

    def drop(self, fd: int) -> None:
        """The connection is closed."""
        self.peers.pop(fd, None)

    def close(self) -> None:
        """Log what has not been."""
        self._tally.close()


def _dropped() -> ResourceExhaustedError:
    return ResourceExhaustedError(
        "the answer was dropped as this connection did not read; it may have been carried out",
        hint="read answers as they come; ask again what changes nothing or has a key",
        retryable=False,
    )
