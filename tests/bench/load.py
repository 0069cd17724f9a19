"""The client that loads both servers of a row in turn, in its own process.

`python -m tests.bench.load` reads a Plan as JSON on stdin (it holds keys) and prints, as JSON, one
list a round with a Measure of each side. The code is the same for both sides, and as little of it
as can be: it is the server that is measured. So requests are packed beforehand, and of a reply only
the fields that are looked at are decoded.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import zmq
from msgspec import Raw, Struct

from tests.bench.machine import cpu_seconds, main_thread_seconds
from tests.bench.wire import PATIENCE_MS, Keys, connect

_WARM_UP = 300


class Side(NamedTuple):
    """A server: its keys, its process, and what it is asked (a map, which gets an `id`).

    `delimited`: an empty frame stands before each message, as a REQ socket sends it.
    """

    keys: Keys
    pid: int
    request: dict[str, Any]
    delimited: bool = False
    codec: Literal["msgpack", "json"] = "msgpack"


class Plan(NamedTuple):
    """How long each side is loaded in each round: so many requests outstanding at each client.

    The clients are connections of one process: their number shows what connections cost a server.
    """

    sides: list[Side]
    rounds: int
    seconds: float
    depth: int = 1
    clients: int = 1


class Measure(NamedTuple):
    """One side in one round; latencies and the server's CPU time a request in microseconds.

    `server_busy` and `client_busy` tell how much of the time the thread that serves, and the one
    that asks, were at work: the one near 1 is what limits the rate.
    """

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    server_busy: float
    client_busy: float
    request_bytes: int
    reply_bytes: int


def measure(plan: Plan) -> list[list[Measure]]:
    """Carry a plan out; one list a round with a Measure of each side."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(plan),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        # Ctrl-C is for the benchmark, which ends this process itself.
        start_new_session=True,
    )
    found: list[list[Any]] = json.loads(done.stdout)
    return [[Measure(*fields) for fields in sides] for sides in found]


def main() -> None:
    """Run the plan on stdin."""
    plan = Plan(*json.load(sys.stdin))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    loads = []
    for fields in plan.sides:
        side = Side(Keys(*fields[0]), *fields[1:])
        sockets = [connect(context, side.keys) for _ in range(plan.clients)]
        loads.append(_Load(sockets, side, plan.depth))
    for load in loads:
        load.run(requests=_WARM_UP)
    found: list[list[Measure]] = []
    for number in range(plan.rounds):
        # Whoever comes first has the cooler or the busier machine: that takes turns as well.
        order = loads if number % 2 == 0 else loads[::-1]
        measures = {id(load): load.measure(plan.seconds) for load in order}
        found.append([measures[id(load)] for load in loads])
    json.dump(found, sys.stdout)
    context.destroy(linger=0)


class _Reply(Struct):
    id: int
    error: Raw | None = None
    status: str = ""


class _Load:
    def __init__(self, sockets: list[zmq.Socket[bytes]], side: Side, depth: int) -> None:
        encode, self._decode = _codec(side.codec)
        self._sockets = sockets
        self._side = side
        # An id is free again once it is answered: so many are enough, and all are packed by now.
        self._packets = [
            encode({**side.request, "id": number}) for number in range(depth * len(sockets))
        ]
        self._reply_bytes = 0

    def measure(self, seconds: float) -> Measure:
        pid = self._side.pid
        cpu, serving, asking = cpu_seconds(pid), main_thread_seconds(pid), time.thread_time()
        began = time.perf_counter()
        latencies = self.run(until=began + seconds)
        passed = time.perf_counter() - began
        cpu, serving = cpu_seconds(pid) - cpu, main_thread_seconds(pid) - serving
        asking = time.thread_time() - asking
        latencies.sort()
        return Measure(
            rate=len(latencies) / passed,
            p50_us=latencies[len(latencies) // 2] * 1e6,
            p99_us=latencies[len(latencies) * 99 // 100] * 1e6,
            cpu_us=cpu / len(latencies) * 1e6,
            server_busy=serving / passed,
            client_busy=asking / passed,
            request_bytes=len(self._packets[-1]),
            reply_bytes=self._reply_bytes,
        )

    def run(self, *, requests: int = sys.maxsize, until: float = float("inf")) -> list[float]:
        """Ask until the time or the number is reached; all are answered. Seconds of each."""
        packets, decode, clock = self._packets, self._decode, time.perf_counter
        delimited = self._side.delimited
        sent_at = [0.0] * len(packets)
        latencies: list[float] = []
        for number, packet in enumerate(packets):
            sent_at[number] = clock()
            self._send(self._sockets[number % len(self._sockets)], packet)
        unsent = requests - len(packets)
        outstanding = len(packets)
        for socket, reply in self._replies():
            now = clock()
            answer = decode(reply)
            number = answer.id
            if answer.error is not None or answer.status == "error":
                raise RuntimeError(f"the server refused: {reply!r}")
            latencies.append(now - sent_at[number])
            if unsent > 0 and now < until:
                unsent -= 1
                sent_at[number] = clock()
                if delimited:
                    socket.send(b"", zmq.SNDMORE)
                socket.send(packets[number])
                continue
            outstanding -= 1
            if not outstanding:
                self._reply_bytes = len(reply)
                break
        return latencies

    def _send(self, socket: zmq.Socket[bytes], packet: bytes) -> None:
        if self._side.delimited:
            socket.send(b"", zmq.SNDMORE)
        socket.send(packet)

    def _replies(self) -> Iterator[tuple[zmq.Socket[bytes], bytes]]:
        """Reply by reply; after each, something may be sent on its socket."""
        if len(self._sockets) > 1:
            yield from self._replies_of_many()
        (socket,) = self._sockets
        delimited = self._side.delimited
        while True:
            if delimited:
                socket.recv()
            yield socket, socket.recv()

    def _replies_of_many(self) -> Iterator[tuple[zmq.Socket[bytes], bytes]]:
        by_fd = {socket.fileno(): socket for socket in self._sockets}
        # What has been sent until now may have taken a descriptor's news: look at all once.
        ready = list(by_fd)
        with select.epoll() as poll:
            for fd in by_fd:
                poll.register(fd, select.EPOLLIN)
            while ready:
                for fd in ready:
                    yield from self._drain(by_fd[fd])
                ready = [fd for fd, _ in poll.poll(PATIENCE_MS / 1e3)]
        raise TimeoutError("no reply")

    def _drain(self, socket: zmq.Socket[bytes]) -> Iterator[tuple[zmq.Socket[bytes], bytes]]:
        while True:
            try:
                reply = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield socket, socket.recv() if self._side.delimited else reply


def _codec(name: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], _Reply]]:
    if name == "json":
        return msgspec.json.Encoder().encode, msgspec.json.Decoder(_Reply).decode
    return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(_Reply).decode


if __name__ == "__main__":
    main()
