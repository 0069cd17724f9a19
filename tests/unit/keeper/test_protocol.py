"""The bytes on the socket: each request as a daemon sends it, each answer as a keeper gives it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.keeper import protocol
from tests.unit.keeper.harness import Keeper

GOLDEN = Path(__file__).parent / "golden" / "v1.0.txt"
ID = "golden00000000000000"

# What differs from run to run, and what stands for it in the golden bytes.
VARIABLE: dict[str, Any] = {
    "pid": 1,
    "start_time": 2,
    "started_at": 3.0,
    "paused_at": 4.0,
    "ended_at": 5.0,
    "boot_id": "boot",
    "build": "build",
    "output_dir": "/dir",
    "message": "sentence",
    "features": list(protocol.FEATURES),
}


def golden() -> dict[str, bytes]:
    """The recorded packets by name, in the order of the conversation."""
    lines = GOLDEN.read_text().splitlines()
    return {name: bytes.fromhex(packet) for name, packet in map(str.split, lines)}


def settle(value: Any) -> Any:
    """The message with what is variable put in its place."""
    if isinstance(value, list):
        return [settle(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: VARIABLE[key] if key in VARIABLE and each is not None else settle(each)
        for key, each in value.items()
    }


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield left, right
    left.close()
    right.close()


def test_conversation_is_the_recorded_one_to_the_byte(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    sock = keeper.client.sock

    for name, packet in golden().items():
        kind, _, op = name.partition(":")
        if kind == "request":
            assert protocol.unpack(packet)["op"] == op
            sock.send(packet)
        else:
            answer = protocol.receive(sock)
            assert answer is not None
            assert (name, protocol.pack(settle(answer))) == (name, packet)
    assert keeper.wait() == 0


def test_every_operation_is_recorded() -> None:
    recorded = {name.partition(":")[2] for name in golden() if name.startswith("request:")}

    assert recorded == {*protocol.OPS, "no-such-operation"}


def test_message_survives_the_way(sockets: tuple[socket.socket, socket.socket]) -> None:
    left, right = sockets
    message = {"id": 7, "op": "write", "data": bytes(range(256)), "agent_id": "ä", "x": [1.5, None]}

    protocol.send(left, message)

    assert protocol.receive(right) == message


@pytest.mark.parametrize("size", [protocol.INLINE_MAX, 1_000_000])
def test_large_message_travels_as_sealed_memory(
    sockets: tuple[socket.socket, socket.socket], size: int
) -> None:
    left, right = sockets
    before = os.listdir("/proc/self/fd")

    protocol.send(left, {"data": bytes(size)})

    assert right.recv(10, socket.MSG_PEEK) == b"\xc1"
    assert protocol.receive(right) == {"data": bytes(size)}
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_body_that_can_still_change_is_refused(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    left, right = sockets
    fd = os.memfd_create("body", os.MFD_ALLOW_SEALING)
    os.write(fd, protocol.pack({}))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    socket.send_fds(left, [b"\xc1"], [fd])
    os.close(fd)

    with pytest.raises(ValueError, match="not sealed"):
        protocol.receive(right)


def test_descriptors_nobody_asked_for_are_closed(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    left, right = sockets
    before = len(os.listdir("/proc/self/fd"))

    socket.send_fds(left, [protocol.pack({"id": 1})], [0, 1, 2])

    assert protocol.receive(right) == {"id": 1}
    assert len(os.listdir("/proc/self/fd")) == before


def test_end_of_file_is_none(sockets: tuple[socket.socket, socket.socket]) -> None:
    left, right = sockets
    left.shutdown(socket.SHUT_WR)

    assert protocol.receive(right) is None
