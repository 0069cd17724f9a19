"""A client with nothing but pyzmq and msgpack, as anyone may write one."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
import zmq

from descartesd.keys.profile import load_profile

PATIENCE_MS = 60_000
ALIVE = ("queued", "starting", "running", "paused", "stopping", "backoff")


class Keys(NamedTuple):
    """Where a server is and which keys to use, in Z85; none for a server without encryption."""

    endpoint: str
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""

    def __repr__(self) -> str:
        return f"Keys(endpoint={self.endpoint!r}, keys=(hidden))"


def read_keys(profile: Path) -> Keys:
    """The keys of a profile with a certificate."""
    found = load_profile(str(profile))
    if found.public_key is None or found.secret_key is None:
        raise ValueError(f"the profile '{profile}' has no keys")
    return Keys(found.endpoints[0], found.server_keys[0], found.public_key, found.secret_key)


def connect(context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> zmq.Socket[bytes]:
    """A DEALER, under CURVE if there are keys; libzmq connects anew until a server answers."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    if keys.server_key:
        socket.curve_serverkey = keys.server_key.encode()
        socket.curve_publickey = keys.public_key.encode()
        socket.curve_secretkey = keys.secret_key.encode()
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 5)
    socket.rcvtimeo = socket.sndtimeo = PATIENCE_MS
    socket.connect(keys.endpoint)
    return socket


class Wire:
    """One connection to a server; every reply must be a result."""

    def __init__(self, keys: Keys) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect(self._context, keys)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def send(self, method: str, params: dict[str, Any], *, idem: bool = False) -> int:
        """Send a request, with a fresh idempotency key if wanted; its number."""
        number = next(self._numbers)
        request = {"v": 1, "id": number, "method": method, "params": params}
        if idem:
            # As the protocol advises.
            request["idem"] = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
        self._socket.send(msgpack.packb(request))
        return number

    def receive(self) -> dict[str, Any]:
        """The next reply's result."""
        reply: dict[str, Any] = msgpack.unpackb(self._socket.recv())
        if "error" in reply:
            raise RuntimeError(f"the server refused: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, idem: bool = False
    ) -> dict[str, Any]:
        """Ask and wait."""
        self.send(method, params or {}, idem=idem)
        return self.receive()

    def pipeline(
        self, method: str, requests: Iterable[dict[str, Any]], *, depth: int, idem: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Keep `depth` requests outstanding; the results as they come."""
        left = iter(requests)
        outstanding = 0
        for params in itertools.islice(left, depth):
            self.send(method, params, idem=idem)
            outstanding += 1
        while outstanding:
            yield self.receive()
            outstanding -= 1
            for params in itertools.islice(left, 1):
                self.send(method, params, idem=idem)
                outstanding += 1

    def spawn(self, specs: Iterable[dict[str, Any]], *, depth: int = 16) -> list[str]:
        """Start agents, under idempotency keys as every client of ours does; their ids."""
        wanted = ({"spec": spec} for spec in specs)
        return [info["id"] for info in self.pipeline("agent.spawn", wanted, depth=depth, idem=True)]

    def count(self, *states: str) -> int:
        """How many agents are in one of these states."""
        return int(self.call("agent.list", {"states": list(states), "limit": 1})["total"])

    def keeper_pid(self) -> int:
        """Pid of the server's keeper."""
        return int(self.call("server.health")["keeper"]["pid"])
