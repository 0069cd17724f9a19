"""The raw server requests are held against: the plainest loop there is, in its own process.

A blocking ROUTER, recv_multipart and send_multipart of the three frames REQ and ROUTER exchange,
msgpack both ways, CURVE, and pyzmq's ThreadAuthenticator with a directory of certificates.
`python -m tests.bench.reference DIRECTORY`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgpack
import zmq
from zmq.auth.thread import ThreadAuthenticator

# Ten fields, 165 bytes and 128 bytes packed, as a status request and its answer might be.
REQUEST: dict[str, Any] = {
    "id": 0,
    "v": 1,
    "method": "agent.status",
    "agent": "01jd8zk3v5q7x9w2m4n6",
    "token": "f3b8c1d2e4a5",
    "deadline": 30.0,
    "trace": "4bf92f3577b34da6a3ce929d",
    "fields": ["state", "pid"],
    "cursor": 1048576,
    "verbose": False,
}
_REPLY: dict[str, Any] = {
    "id": 0,
    "v": 1,
    "ok": True,
    "agent": "01jd8zk3v5q7x9w2m4n6",
    "state": "running",
    "pid": 123456,
    "started": 1700000000.25,
    "memory": 12345678,
    "cpu": 1.25,
    "name": "build-seven-nine",
}


def main(directory: str) -> None:
    """Serve until killed; says where and with which key in one line of JSON."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve(domain="*", location=directory)
    router = context.socket(zmq.ROUTER)
    router.curve_server = True
    router.curve_publickey, router.curve_secretkey = public, _ = zmq.curve_keypair()
    port = router.bind_to_random_port("tcp://127.0.0.1")
    facts = {"endpoint": f"tcp://127.0.0.1:{port}", "server_key": public.decode()}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    while True:
        route, empty, payload = router.recv_multipart()
        request = msgpack.unpackb(payload)
        router.send_multipart([route, empty, msgpack.packb(_REPLY | {"id": request["id"]})])


if __name__ == "__main__":
    main(sys.argv[1])
