"""Run inside the container: clients that go on asking while the server is restarted.

load.py SECONDS PROFILE…: one client for each profile; prints what became of it as JSON.
Beside them somebody knocks at both sockets all the time, whom no client would tell of a refusal.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any

from descartesd.client import Client
from descartesd.errors import DescartesError
from descartesd.wire.agent import AgentSpec

DOORS: list[tuple[socket.AddressFamily, Any]] = [
    (socket.AF_INET, ("127.0.0.1", 5555)),
    (socket.AF_UNIX, "/run/descartes/control.sock"),
]


def ask(profile: str, number: int, until: float, told: dict[str, Any]) -> None:
    """Read and spawn in turn; every spawn under an idempotency key of its own."""
    with Client(profile, wait_for_server_s=30.0, timeout_s=30.0) as client:
        count = 0
        while time.monotonic() < until:
            count += 1
            began = time.monotonic()
            try:
                if count % 20:
                    client.server.hello()
                else:
                    name = f"load-{number}-{count}"
                    client.agent.spawn(spec=AgentSpec(name=name, command=["true"]))
                    told["spawned"].append(name)
            except DescartesError as exc:
                told["errors"].append(f"{exc.code}: {exc.message}")
            told["latencies"].append(time.monotonic() - began)


def knock(until: float, told: dict[str, Any]) -> None:
    """Connect to both sockets again and again, and say nothing there."""
    while time.monotonic() < until:
        for family, address in DOORS:
            with socket.socket(family) as door:
                door.settimeout(10)
                told["knocks"] += 1
                try:
                    door.connect(address)
                except OSError as exc:
                    told["refused"].append(f"{address}: {exc}")
        time.sleep(0.02)


def main() -> None:
    """Run the clients side by side."""
    until = time.monotonic() + float(sys.argv[1])
    told: dict[str, Any] = {"spawned": [], "errors": [], "latencies": []}
    told |= {"knocks": 0, "refused": []}
    clients = [
        threading.Thread(target=ask, args=(profile, number, until, told))
        for number, profile in enumerate(sys.argv[2:])
    ]
    clients.append(threading.Thread(target=knock, args=(until, told)))
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    latencies = sorted(told.pop("latencies"))
    told["requests"] = len(latencies)
    told["p999_s"] = latencies[int(len(latencies) * 0.999)]
    told["longest_s"] = latencies[-1]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
