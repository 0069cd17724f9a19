"""What daemon and keeper say to each other, and the output files the keeper writes (version 1).

One AF_UNIX SEQPACKET connection; each packet is one msgpack map with named keys.
Daemon to keeper: `{id, op, …}`. Keeper to daemon: `{id, ok: {…}}` or `{id, error: {code, message,
hint?}}`, and facts nobody asked for: `{event: "exited"|"eof", agent: STATUS}`; an `exited` whose
status says eof stands for both. It comes when what the leader left is ended and counted, at the
latest a second after it, and then again when that is done; until it comes the state is the former.
A packet over 64 KiB travels as a sealed memfd (SCM_RIGHTS) under the one-byte packet 0xC1, which
msgpack never produces (the kernel refuses SEQPACKET messages over about 208 KiB, unix(7)).
Unknown keys are ignored by both sides; keys are only added within version 1.

`hello` and `reexec` are answered with `{version, build, features, pid, boot_id, started_at,
output_dir, reexecutions}`; pid and started_at stay the same over re-executions, the rest need not.

STATUS: `{agent_id, name, attempt, pid, start_time, started_at, state, paused_at, ended_at,
exit_code, signal, ended_by, leftovers, pause_mode, limits_enforced, out_of_memory, eof, stdin_open,
totals: {stdout, stderr}, output_error}`; limits_enforced says of each limit asked for whether it is
real; out_of_memory: the kernel killed it for want of memory; output_error says why output waits in
the keeper (a full disk), null while it is written.
Times are seconds since the epoch; start_time is field 22 of /proc/PID/stat (proc(5)), in ticks.
"""

from __future__ import annotations

import array
import binascii
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, TypedDict

import msgpack

VERSION: Final = "1.3"
FEATURES: Final = (
    "tree", "fence", "writer-offsets", "time-index", "hole-punch", "tty", "on-exit",
    "limits", "usage", "private-tmp", "cgroup", "users", "cwd-within", "reexec",
)  # fmt: skip
# Fields of `spawn` that a keeper of an earlier version would not heed; of 1.0 `env_over` neither.
SPAWN_SINCE: Final[Mapping[tuple[int, int], tuple[str, ...]]] = {
    (1, 1): ("tty", "on_exit", "limits", "user", "env_file", "stdin_data"),
    (1, 2): ("cwd_within",),
}
OPS: Final = (
    "hello", "spawn", "list", "signal", "pause", "resume", "stop", "kill", "write", "close_stdin",
    "resize", "forget", "remove", "fence", "recover", "strays", "usage", "reexec", "shutdown",
)  # fmt: skip

STATES: Final = ("running", "paused", "stopping", "exited")
ENDED_BY: Final = ("stop", "kill", "fence", "run_time")

INLINE_MAX: Final = 64 * 1024
BODY_MAX: Final = 64 * 1024 * 1024
_BODY_FOLLOWS: Final = b"\xc1"
# Plain numbers: the members of socket.MsgFlag are computed with in Python.
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_DESCRIPTORS_SPACE: Final = socket.CMSG_SPACE(4 * 4)
_SEALS: Final = 0x0001 | 0x0002 | 0x0004 | 0x0008  # seal, shrink, grow, write: fcntl(2)

# The daemon has a faster codec than a keeper has room for.
Encode = Callable[[Mapping[str, Any]], bytes]
Decode = Callable[[bytes], dict[str, Any]]

STREAMS: Final = ("stdout", "stderr")
INDEX_HEADER: Final = struct.Struct("<4sIQ")  # magic, reserved, head (= truncated_before)
INDEX_ENTRY: Final = struct.Struct("<Qd")  # offset of the first byte, time it was read at
INDEX_MAGIC: Final = b"DXI1"


class Status(TypedDict):
    """One agent as the keeper knows it."""

    agent_id: str
    name: str
    attempt: int
    pid: int
    start_time: int
    started_at: float
    state: str
    paused_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    ended_by: str | None
    leftovers: int
    pause_mode: str
    limits_enforced: dict[str, bool]
    out_of_memory: bool
    eof: bool
    stdin_open: bool
    totals: dict[str, int]
    output_error: str | None


def build() -> str:
    """A checksum of this package's code as it is installed: an upgrade shows as another build."""
    code = 0
    directory = os.path.dirname(__file__)
    for name in sorted(os.listdir(directory)):
        if name.endswith(".py"):
            with open(os.path.join(directory, name), "rb") as file:
                code = binascii.crc32(file.read(), code)
    return f"{code:08x}"


def data_path(output_dir: str, agent_id: str, stream: str) -> str:
    """Path of a stream's bytes. Offset n of the stream is offset n of this file."""
    return f"{output_dir}/{agent_id}.{stream}"


def index_path(output_dir: str, agent_id: str, stream: str) -> str:
    """Path of a stream's time index: INDEX_HEADER, then INDEX_ENTRY in ascending offset."""
    return f"{output_dir}/{agent_id}.{stream}.idx"


def last_words_path(output_dir: str) -> str:
    """Path of what a keeper that ended in order has left: how the agents it ended have ended."""
    return f"{output_dir}/last-words"


def read_last_words(output_dir: str) -> list[Status]:
    """How the agents of the keeper before have ended; nothing of one that was cut off.

    Raises OSError other than that there is no such file, ValueError when it is malformed.
    """
    try:
        with open(last_words_path(output_dir), "rb") as file:
            told: list[Status] = unpack(file.read())["agents"]
    except FileNotFoundError:
        return []
    return told


def pack(message: Mapping[str, Any]) -> bytes:
    """One message as its packet's bytes."""
    packed: bytes = msgpack.packb(message)
    return packed


def unpack(packet: bytes) -> dict[str, Any]:
    """Decode a packet.

    Raises ValueError when it is not one map with text keys.
    """
    message = msgpack.unpackb(packet, raw=False, strict_map_key=True)
    if not isinstance(message, dict):
        raise ValueError(f"expected a map, got {type(message).__name__}")
    return message


def send(sock: socket.socket, message: Mapping[str, Any], encode: Encode = pack) -> None:
    """Send one message.

    Raises BlockingIOError when the peer's queue is full, OSError when the peer is gone.
    """
    packet = encode(message)
    if len(packet) <= INLINE_MAX:
        sock.send(packet)
        return
    fd = os.memfd_create("descartes-body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(packet)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(sock, [_BODY_FOLLOWS], [fd])
    finally:
        os.close(fd)


def receive(sock: socket.socket, decode: Decode = unpack) -> dict[str, Any] | None:
    """Receive one message; None at end of file.

    Raises BlockingIOError when nothing is there, ValueError when the packet is malformed.
    """
    packet, ancillary, flags, _ = sock.recvmsg(INLINE_MAX, _DESCRIPTORS_SPACE)
    fds = _received_fds(ancillary) if ancillary else []
    try:
        if not packet:
            return None
        if flags & _TRUNCATED:
            raise ValueError(f"packet over {INLINE_MAX} bytes")
        if packet == _BODY_FOLLOWS:
            if len(fds) != 1:
                raise ValueError("a body without its descriptor")
            packet = _read_body(fds[0])
        return decode(packet)
    finally:
        for fd in fds:
            os.close(fd)


def _received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _read_body(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the body is not sealed")
    if size > BODY_MAX:
        raise ValueError(f"body of {size} bytes is over {BODY_MAX}")
    return os.pread(fd, size, 0)
