"""The client that loads both servers of a row in turn, in its own process.

`python -m tests.bench.load` reads a Plan as JSON on stdin (it holds keys) and prints, as JSON, one
list a round with a Measure of each side. The code is the same for both sides: pack, send, receive,
unpack.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, NamedTuple

import msgpack
import zmq

from tests.bench.machine import cpu_seconds
from tests.bench.wire import Keys, connect

_WARM_UP = 300


class Side(NamedTuple):
    """A server: its keys, its process, and what it is asked (a map with an `id`).

    `delimited`: an empty frame stands before each message, as a REQ socket sends it.
    """

    keys: Keys
    pid: int
    request: dict[str, Any]
    delimited: bool


class Plan(NamedTuple):
    """How long each side is loaded in each round, and with how many requests outstanding."""

    sides: list[Side]
    rounds: int
    seconds: float
    depth: int


class Measure(NamedTuple):
    """One side in one round; latencies and the server's CPU time a request in microseconds."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    request_bytes: int
    reply_bytes: int


def main() -> None:
    """Run the plan."""
    plan = Plan(*json.load(sys.stdin))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    loads = []
    for fields in plan.sides:
        side = Side(Keys(*fields[0]), *fields[1:])
        loads.append(_Load(connect(context, side.keys), side))
    for load in loads:
        load.run(plan.depth, requests=_WARM_UP)
    found: list[list[Measure]] = []
    for number in range(plan.rounds):
        # Whoever comes first has the cooler or the busier machine: that takes turns as well.
        order = loads if number % 2 == 0 else loads[::-1]
        measures = {id(load): load.measure(plan.depth, plan.seconds) for load in order}
        found.append([measures[id(load)] for load in loads])
    json.dump(found, sys.stdout)
    context.destroy(linger=0)


class _Load:
    def __init__(self, socket: zmq.Socket[bytes], side: Side) -> None:
        self._socket = socket
        self._side = side
        self._last = 0

    def measure(self, depth: int, seconds: float) -> Measure:
        cpu = cpu_seconds(self._side.pid)
        began = time.perf_counter()
        latencies, request_bytes, reply_bytes = self.run(depth, until=began + seconds)
        passed = time.perf_counter() - began
        cpu = cpu_seconds(self._side.pid) - cpu
        latencies.sort()
        return Measure(
            rate=len(latencies) / passed,
            p50_us=latencies[len(latencies) // 2] * 1e6,
            p99_us=latencies[len(latencies) * 99 // 100] * 1e6,
            cpu_us=cpu / len(latencies) * 1e6,
            request_bytes=request_bytes,
            reply_bytes=reply_bytes,
        )

    def run(
        self, depth: int, *, requests: int = sys.maxsize, until: float = float("inf")
    ) -> tuple[list[float], int, int]:
        """Keep `depth` outstanding until the time or the number is reached; all are answered."""
        socket, request, delimited = self._socket, self._side.request, self._side.delimited
        pack, unpack, clock = msgpack.packb, msgpack.unpackb, time.perf_counter
        sent_at: dict[int, float] = {}
        latencies: list[float] = []
        number = self._last
        most = number + requests
        packet = reply = b""
        while True:
            while len(sent_at) < depth and number < most and (now := clock()) < until:
                number += 1
                request["id"] = number
                sent_at[number] = now
                packet = pack(request)
                if delimited:
                    socket.send(b"", zmq.SNDMORE)
                socket.send(packet)
            if not sent_at:
                break
            if delimited:
                socket.recv()
            reply = socket.recv()
            answer = unpack(reply)
            if "error" in answer:
                raise RuntimeError(f"the server refused: {answer['error']}")
            latencies.append(clock() - sent_at.pop(answer["id"]))
        self._last = number
        return latencies, len(packet), len(reply)


if __name__ == "__main__":
    main()
