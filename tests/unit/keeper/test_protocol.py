"""The bytes on the socket: each request as a daemon sends it, each answer as a keeper gives it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from descartesd.keeper import protocol
from tests.unit.keeper.harness import Keeper
from tests.unit.keeper.record import golden, record, settle

EARLIER = ("1.0", "1.1", "1.2")


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield left, right
    left.close()
    right.close()


def test_conversation_is_the_recorded_one_to_the_byte(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()

    packets = record(keeper.client)

    assert list(packets) == list(golden())
    for name, packet in golden().items():
        assert (name, packets[name]) == (name, packet)
    assert keeper.wait() == 0


@pytest.mark.parametrize("version", EARLIER)
def test_daemon_of_an_earlier_version_gets_all_it_was_told(
    make_keeper: Callable[..., Keeper], version: str
) -> None:
    keeper = make_keeper()
    sock = keeper.client.sock

    for name, packet in golden(version).items():
        if name.startswith("request:"):
            sock.send(packet)
        else:
            answer = protocol.receive(sock)
            assert answer is not None
            lacking = lacks(settle(answer), protocol.unpack(packet))
            assert (name, lacking) == (name, [])
    assert keeper.wait() == 0


def lacks(answer: Any, recorded: Any, where: str = "") -> list[str]:
    """Where an answer has not what was recorded; it may have more keys, and another version."""
    if isinstance(recorded, dict) and isinstance(answer, dict):
        return [
            each
            for key, value in recorded.items()
            if key != "version"
            for each in lacks(answer.get(key), value, f"{where}.{key}")
        ]
    if isinstance(recorded, list) and isinstance(answer, list) and len(recorded) <= len(answer):
        return [
            each
            for number, value in enumerate(recorded)
            for each in lacks(answer[number], value, f"{where}[{number}]")
        ]
    return [] if answer == recorded else [where]


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
