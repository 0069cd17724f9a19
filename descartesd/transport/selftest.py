"""Proves at start that the server refuses a key nobody has authorised."""

from __future__ import annotations

import asyncio
import struct

import zmq

from descartesd.errors import StartupRefusedError

_WITHIN_S = 5.0
_EVENT = struct.Struct("=HI")


async def refuse_unknown_key(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, server_key: bytes
) -> None:
    """Knock with a key made for this; raises StartupRefusedError unless it is turned away."""
    knock = context.socket(zmq.DEALER)
    knock.linger = 0
    knock.setsockopt(zmq.IPV6, int("[" in endpoint))
    knock.curve_serverkey = server_key
    knock.curve_publickey, knock.curve_secretkey = zmq.curve_keypair()
    events = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED
    monitor = knock.get_monitor_socket(events)
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def read() -> None:
        try:
            event = monitor.recv_multipart(zmq.NOBLOCK)[0]
        except zmq.Again:
            return
        if not told.done():
            told.set_result(_EVENT.unpack(event[: _EVENT.size])[0])

    loop = asyncio.get_running_loop()
    loop.add_reader(monitor.FD, read)
    try:
        knock.connect(_reachable(endpoint))
        read()
        async with asyncio.timeout(_WITHIN_S):
            outcome = await told
    except TimeoutError as exc:
        raise StartupRefusedError(
            f"the self-test got no answer at {endpoint} within {_WITHIN_S:.0f} s",
            hint="see whether a firewall stands between this host and its own address",
        ) from exc
    finally:
        loop.remove_reader(monitor.FD)
        knock.disable_monitor()
        monitor.close(linger=0)
        knock.close(linger=0)
    if outcome != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        raise StartupRefusedError(
            "the self-test was let in with a key nobody authorised",
            hint="do not run this server: report it as a security fault",
        )


def _reachable(endpoint: str) -> str:
    wildcards = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # nothing is bound here
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return f"tcp://{wildcards.get(host, host)}:{port}"
