"""A ROUTER with its ZAP handler in this process, for faults no daemon can be talked into."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import zmq

from descartesd.transport.listeners import listen_tcp, listen_unix
from descartesd.transport.server import Peer, RouterOptions, RouterServer
from descartesd.transport.unread import Unread
from descartesd.transport.zap import Authenticate, ZapHandler

T = TypeVar("T")


class Front:
    """Answers every message with the user id it came under, until it is closed."""

    def __init__(self, authenticate: Authenticate, *, unix_path: str | None = None) -> None:
        self.public, self.secret = zmq.curve_keypair()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="front")
        self._thread.start()
        self._unix_path = unix_path
        self.run(lambda: self._start(authenticate))

    def _start(self, authenticate: Authenticate) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.zap = ZapHandler(self.context, authenticate)
        self.zap.start(self.loop)
        self._listener = (
            listen_tcp("tcp://127.0.0.1:0", "test")
            if self._unix_path is None
            else listen_unix(self._unix_path, "test")
        )
        self.endpoint = self._listener.endpoint
        self.router = RouterServer(
            self.context,
            RouterOptions(
                public_key=self.public,
                secret_key=self.secret,
                max_request_bytes=262_144,
                send_hwm=100,
                receive_hwm=100,
            ),
            on_request=self._answer,
            on_disconnected=lambda _fd: None,
            on_shed=lambda _peer, _payload: None,
            unread=Unread(),
        )
        self.router.start(self.loop, [self._listener])
        self.router.tell_failures()

    def _answer(self, peer: Peer, _payload: bytes) -> None:
        self.router.send(peer, peer.user_id.encode())

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def run(self, job: Callable[[], T]) -> T:
        """Run something in the loop's thread, where the sockets may be used."""

        async def call() -> T:
            return job()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(timeout=10)

    def close(self) -> None:
        """Close everything."""
        self.run(self._close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _close(self) -> None:
        self.router.close()
        self.zap.close()
        self._listener.socket.close()
        self.context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
