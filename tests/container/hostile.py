"""Run inside the container: peers that mean no good, and what others notice of them, as JSON.

hostile.py half-open PROFILE COUNT SECONDS | flood SECONDS | endless PROFILE MIB
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import statistics
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rawcurve import RawCurve, RawKeys  # type: ignore[import-not-found]  # lies beside it there

from descartesd.client import Client
from descartesd.keys.z85 import decode_key

PORT = 5555
LOCAL = "/root/local.toml"


def server_key() -> bytes:
    """The server's public key."""
    return decode_key(Path("/run/descartes/server.pub").read_text().strip())


def connected() -> socket.socket:
    """A connection on which nothing is said."""
    return socket.create_connection(("127.0.0.1", PORT), timeout=10)


def asked(client: Client) -> float:
    """How long a request takes, in seconds."""
    began = time.monotonic()
    client.server.hello()
    return time.monotonic() - began


def newcomer(profile: str) -> float:
    """How long it takes somebody who comes now to be answered."""
    began = time.monotonic()
    with Client(profile, wait_for_server_s=30) as client:
        client.server.hello()
    return time.monotonic() - began


def half_open(profile: str, count: int, seconds: float) -> dict[str, Any]:
    """Open connections, say nothing on them, and wait until the server closes them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Client(profile) as client:
        at_rest = statistics.median(asked(client) for _ in range(100))
        made = [connected() for _ in range(count)]
        opened = time.monotonic()
        beside = statistics.median(asked(client) for _ in range(100))
        new = min(newcomer(profile) for _ in range(3))
        for each in made:
            each.settimeout(max(opened + seconds - time.monotonic(), 0.1))
            while each.recv(65_536):
                continue
        return {"at_rest": at_rest, "beside": beside, "new": new, "gone": time.monotonic() - opened}


def flood(seconds: float) -> dict[str, Any]:
    """Repeat one HELLO on new connections, and ask beside it."""
    with RawCurve.connect(f"tcp://127.0.0.1:{PORT}", server_key(), RawKeys.new()) as recorded:
        greeting = recorded.greet()
        recorded.read_greeting()
        hello = recorded.hello()
    until = time.monotonic() + seconds
    knocks, times = 0, []
    with Client(LOCAL, timeout_s=30) as client, selectors.DefaultSelector() as selector:
        while time.monotonic() < until:
            with connected() as stranger:
                stranger.sendall(greeting + hello)
                selector.register(stranger, selectors.EVENT_READ)
                selector.select(timeout=0.05)
                selector.unregister(stranger)
            knocks += 1
            if knocks % 20 == 0:
                times.append(asked(client))
    return {"knocks": knocks, "median": statistics.median(times), "longest": max(times)}


def endless(profile: str, mib: float) -> dict[str, Any]:
    """Send one message without an end, until the server goes or so much of it is sent."""
    table = tomllib.loads(Path(profile).read_text())
    keys = RawKeys(decode_key(table["public_key"]), decode_key(table["secret_key"]))
    part, sent = b"x" * 60_000, 0
    with RawCurve.connect(f"tcp://127.0.0.1:{PORT}", server_key(), keys) as peer:
        peer.handshake()
        try:
            while sent < mib * 2**20:
                peer.send_frame(part, more=True)
                sent += len(part)
        except OSError as exc:
            return {"sent": sent, "ended": type(exc).__name__}
    return {"sent": sent, "ended": None}


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    "half-open": lambda profile, count, s: half_open(profile, int(count), float(s)),
    "flood": lambda seconds: flood(float(seconds)),
    "endless": lambda profile, mib: endless(profile, float(mib)),
}

if __name__ == "__main__":
    print(json.dumps(VERBS[sys.argv[1]](*sys.argv[2:])))
