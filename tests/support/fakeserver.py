"""A small CURVE ROUTER that speaks the envelope and does what a test tells it to."""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import zmq
from msgspec import Struct

from descartesd.errors import DescartesError, UnimplementedError
from descartesd.keys.profile import ClientSettings, Profile
from descartesd.keys.z85 import decode_key
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION, Request, Result

Handler = Callable[["FakeServer", bytes, Request], Any]
DOMAIN = b"control"


class ServerKeys:
    """Z85 key pairs of a server and of a client it knows."""

    def __init__(self) -> None:
        self.public, self.secret = (key.decode() for key in zmq.curve_keypair())
        self.client_public, self.client_secret = (key.decode() for key in zmq.curve_keypair())

    def profile(self, endpoint: str, *, client: ClientSettings | None = None) -> Profile:
        """The profile of the known client."""
        quick = client or ClientSettings(reconnect_delay_secs=0.03)
        if endpoint.startswith("ipc://"):
            return Profile(endpoints=(endpoint,), client=quick)
        return Profile(
            endpoints=(endpoint,),
            server_keys=(self.public,),
            public_key=self.client_public,
            secret_key=self.client_secret,
            client=quick,
        )


class FakeServer:
    """Serves from `start` to `stop`, in a thread of its own, as often as wanted.

    `handlers` maps a method to a function; what it returns is the result, a DescartesError the
    refusal, and after None nothing is sent. `seen` holds every request received.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:*",
        keys: ServerKeys | None = None,
        *,
        zap_status: bytes | None = None,
    ) -> None:
        self.keys = keys or ServerKeys()
        self.endpoint = endpoint
        self.handlers: dict[str, Handler] = {}
        self.seen: list[Request] = []
        self.routes: list[bytes] = []
        self.connects: Counter[str] = Counter()
        self._zap_status = zap_status
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._life = threading.Lock()
        self._is_finished = False
        self._linger_ms = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._life:
            self._is_finished = True
            self.stop()

    @property
    def profile(self) -> Profile:
        """How the known client reaches this server."""
        return self.keys.profile(self.endpoint)

    def start(self) -> Self:
        """Listen; a free port, once found, is kept."""
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind("inproc://zeromq.zap.01")
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.curve_server = True
        self._router.curve_secretkey = self.keys.secret.encode()
        self._router.zap_domain = DOMAIN
        self._router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._router.setsockopt(zmq.MAXMSGSIZE, 262_144)
        self._router.setsockopt(zmq.HANDSHAKE_IVL, 3000)
        self._router.setsockopt(zmq.IPV6, int("[" in self.endpoint))
        self._router.bind(self.endpoint)
        self.endpoint = str(self._router.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        if self.endpoint.startswith("ipc://"):
            directory = os.path.dirname(self.endpoint.removeprefix("ipc://"))
            with open(os.path.join(directory, "server.pub"), "w", encoding="ascii") as file:
                file.write(f"{self.keys.public}\n")
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._stopping = False
        self._is_deaf = False
        self._thread = threading.Thread(target=self._serve, name="fake-server")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection at once, as a killed server does; nothing unsent goes out."""
        if self._thread is None:
            return
        self.run(self._stop)
        self._thread.join()
        self._thread = None
        os.close(self._wake)

    def restart(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Die and come back, unless the test is over; from any thread but the server's."""
        with self._life:
            if not self._is_finished:
                # What was sent before goes out: the cut comes where the test says, not earlier.
                self._linger_ms = 500
                self.stop()
                self._linger_ms = 0
                meanwhile()
                self.start()

    def restart_soon(self) -> None:
        """The same from the server's own thread, once this request is dealt with."""
        self._is_deaf = True
        threading.Thread(target=self.restart, name="fake-server-restart").start()

    def _stop(self) -> None:
        self._stopping = True

    def run(self, job: Callable[[], None]) -> None:
        """Run something in the server's thread, where its socket may be used."""
        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)

    def send(self, route: bytes, message: Struct | bytes) -> None:
        """Send one message to a client; only from the server's thread."""
        payload = message if isinstance(message, bytes) else codec.encode(message)
        self._router.send_multipart([route, payload])

    def reply(self, route: bytes, request: Request, result: Struct) -> None:
        """Answer a request; only from the server's thread."""
        self.send(route, Result(v=VERSION, id=request.id, result=result))

    def of(self, method: str) -> list[Request]:
        """The requests received for one method."""
        return [request for request in list(self.seen) if request.method == method]

    def _serve(self) -> None:
        poller = zmq.Poller()
        for source in (self._zap, self._router, self._wake):
            poller.register(source, zmq.POLLIN)
        while not self._stopping:
            ready = dict(poller.poll())
            if self._zap in ready:
                self._authenticate()
            if self._router in ready:
                self._receive()
            if self._wake in ready:
                os.eventfd_read(self._wake)
                while not self._jobs.empty():
                    self._jobs.get()()
        self._router.close(linger=self._linger_ms)
        self._zap.close(linger=0)
        self._context.term()

    def _authenticate(self) -> None:
        frames = self._zap.recv_multipart()
        address, key = frames[3].decode(), frames[6]
        is_known = key == decode_key(self.keys.client_public)
        status = self._zap_status
        if status is None:
            status = b"200" if is_known or address.startswith("localhost:") else b"400"
        self.connects[status.decode()] += 1
        self._zap.send_multipart([b"1.0", frames[1], status, b"", b"somebody", b""])

    def _receive(self) -> None:
        while not self._is_deaf:
            try:
                route, payload = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(route, codec.decode_request(payload))

    def _handle(self, route: bytes, request: Request) -> None:
        self.seen.append(request)
        if route not in self.routes:
            self.routes.append(route)
        handler = self.handlers.get(request.method, _unknown)
        answer = handler(self, route, request)
        if isinstance(answer, DescartesError):
            self.send(route, codec.failure(request.id, answer))
        elif answer is not None:
            self.reply(route, request, answer)


def _unknown(_: FakeServer, __: bytes, request: Request) -> DescartesError:
    return UnimplementedError(f"'{request.method}' is not known here")
