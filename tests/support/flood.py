"""Floods a server as one identity, in a process of its own: python -m tests.support.flood …"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections import Counter
from pathlib import Path

import msgpack
import zmq

from tests.faults.peers import keys_of

VALID = {"v": 1, "method": "server.hello"}
KINDS = {
    "valid": lambda number: msgpack.packb({**VALID, "id": number}),
    "unauthorised": lambda number: msgpack.packb({**VALID, "id": number, "method": "server.drain"}),
    "malformed": lambda number: b"\xc1" + number.to_bytes(8, "big"),
}


def main() -> None:
    """Send `--rate` requests a second over `--connections`, and tell what came back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("profile")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--kind", choices=KINDS, default="valid")
    args = parser.parse_args()
    profile = Path(args.profile)
    keys, endpoint = keys_of(profile), tomllib.loads(profile.read_text())["endpoints"][0]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = []
    for _ in range(args.connections):
        sock = context.socket(zmq.DEALER)
        sock.linger = 0
        sock.curve_serverkey = keys.server
        sock.curve_publickey, sock.curve_secretkey = keys.public, keys.secret
        sock.connect(endpoint)
        sockets.append(sock)
    make = KINDS[args.kind]
    answers: Counter[str] = Counter()
    sent = 0
    began = time.monotonic()
    while (now := time.monotonic()) < began + args.seconds:
        due = int((now - began) * args.rate)
        while sent < due:
            for sock in sockets:
                try:
                    sock.send(make(sent), zmq.NOBLOCK)
                except zmq.Again:
                    continue
                sent += 1
        for sock in sockets:
            _read(sock, answers)
        time.sleep(0.001)
    end = time.monotonic() + 5
    while answers.total() < sent and time.monotonic() < end:
        for sock in sockets:
            _read(sock, answers)
        time.sleep(0.001)
    context.destroy(linger=0)
    print(json.dumps({"sent": sent, "answers": answers}))


def _read(sock: zmq.Socket[bytes], answers: Counter[str]) -> None:
    try:
        while True:
            answer = msgpack.unpackb(sock.recv(zmq.NOBLOCK))
            answers[answer["error"]["code"] if "error" in answer else "ok"] += 1
    except zmq.Again:
        return


if __name__ == "__main__":
    main()
