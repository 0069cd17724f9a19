"""Peers made of pyzmq and msgpack, which send what the project's own client never would."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
import psutil
import zmq

from descartesd.keys.z85 import decode_key
from tests.support.eventually import eventually
from tests.support.rawcurve import RawKeys
from tests.support.server import Server


class Keys(NamedTuple):
    """Z85 keys: the server's public one, the client's pair."""

    server: bytes
    public: bytes
    secret: bytes

    @property
    def raw(self) -> tuple[bytes, RawKeys]:
        """The same as bytes."""
        server, public, secret = (decode_key(key.decode()) for key in self)
        return server, RawKeys(public, secret)


def keys_of(profile: Path) -> Keys:
    """The keys a profile holds."""
    table = tomllib.loads(profile.read_text())
    return Keys(
        table["server_keys"][0].encode(),
        table["public_key"].encode(),
        table["secret_key"].encode(),
    )


def unknown_keys(server: Server) -> Keys:
    """Keys nobody has certified, meant for this server."""
    return Keys(server.public_key.encode(), *zmq.curve_keypair())


class Peer:
    """One socket; a receive raises zmq.Again after `timeout` seconds without a message."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        keys: Keys,
        *,
        kind: int = zmq.DEALER,
        routing_id: bytes | None = None,
        timeout: float = 2.0,
    ) -> None:
        self.socket = context.socket(kind)
        self.socket.linger = 0
        self.socket.rcvtimeo = int(timeout * 1000)
        self.socket.curve_serverkey = keys.server
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret
        if routing_id is not None:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.connect(endpoint)

    def send(self, method: str, params: object = None, **envelope: Any) -> None:
        """Send a request; `id` is 1 unless the envelope has another."""
        self.socket.send(request(method, params, **envelope))

    def receive(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = msgpack.unpackb(self.socket.recv())
        return message

    def ask(self, method: str, params: object = None, **envelope: Any) -> dict[str, Any]:
        """Send a request and return what comes back."""
        self.send(method, params, **envelope)
        return self.receive()

    def result(self, method: str, params: object = None, **envelope: Any) -> Any:
        """Send a request and return its result; KeyError when it was refused."""
        return self.ask(method, params, **envelope)["result"]

    def refusal(self, method: str, params: object = None, **envelope: Any) -> str:
        """Send a request and return the code it is refused with."""
        answer = self.ask(method, params, **envelope)
        assert "error" in answer, answer
        code: str = answer["error"]["code"]
        return code

    def close(self) -> None:
        self.socket.close(linger=0)


def request(method: object, params: object = None, **envelope: Any) -> bytes:
    """The bytes of a request."""
    message = {"v": 1, "id": 1, "method": method, **envelope}
    if params is not None:
        message["params"] = params
    packed: bytes = msgpack.packb(message)
    return packed


class Peers:
    """Makes peers of a server and closes them together."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._made: list[Peer] = []
        self.admin = keys_of(server.admin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for peer in self._made:
            peer.close()
        self._context.term()

    def connect(self, keys: Keys | None = None, **options: Any) -> Peer:
        """A peer over tcp, with the administrator's keys unless others are given."""
        peer = Peer(self._context, self._server.endpoint, keys or self.admin, **options)
        self._made.append(peer)
        return peer


def handshake_failures(server: Server) -> Counter[str]:
    """Failed handshakes by cause, as the log has counted them so far."""
    total: Counter[str] = Counter()
    for entry in logged(server, "handshake.failed"):
        total.update(entry["counts"])
    return total


def logged(server: Server, event: str) -> list[dict[str, Any]]:
    """The log's lines about an event."""
    entries = [json.loads(line) for line in server.log_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


def daemon_of(server: Server) -> psutil.Process:
    """The process of a running server."""
    assert server.process is not None
    return psutil.Process(server.process.pid)


def settled_rss(server: Server) -> int:
    """Bytes the daemon holds once they have stopped growing."""
    daemon = daemon_of(server)
    seen = [0]

    def stands_still() -> int:
        seen.append(int(daemon.memory_info().rss))
        return seen[-1] if seen[-1] <= seen[-2] else 0

    return eventually(stands_still, step=0.1)
