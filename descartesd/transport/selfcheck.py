"""Asks the server one question the way any client does: by a new CURVE connection to its socket."""

from __future__ import annotations

import asyncio

import msgspec
import zmq

from descartesd.errors import DescartesError, UnavailableError
from descartesd.transport.context import Context
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION

_METHOD = "server.health"
_QUESTION = msgspec.msgpack.encode({"v": VERSION, "id": 1, "method": _METHOD, "params": {}})


async def ask_own_socket(context: Context, endpoint: str, server_key: bytes) -> None:
    """Return once `server.health` has been answered over `endpoint`, a Unix socket.

    That takes the listener, ZAP, the policy, the loop and the dispatcher. Without a time limit of
    its own. Raises UnavailableError when the answer is an error.
    """
    sock = context.socket(zmq.DEALER)
    sock.linger = 0
    sock.curve_serverkey = server_key
    sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        try:
            reply = sock.recv(zmq.NOBLOCK)
        except zmq.Again:
            return
        if not answered.done():
            answered.set_result(reply)

    loop.add_reader(sock.FD, read)
    try:
        sock.connect(endpoint)
        sock.send(_QUESTION)
        read()
        reply = await answered
    finally:
        loop.remove_reader(sock.FD)
        sock.close(linger=0)
    _check(reply)


def _check(reply: bytes) -> None:
    try:
        found = codec.decode_incoming(reply)
    except DescartesError as exc:
        raise UnavailableError(f"{_METHOD} of its own: {exc.message}") from exc
    if found.error is not msgspec.UNSET:
        raise UnavailableError(f"{_METHOD} of its own: {found.error.message}")
