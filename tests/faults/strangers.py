"""What arrives at an open port from peers that speak something else, or ZMTP wrongly."""

from __future__ import annotations

import random
import struct


def greeting(mechanism: bytes = b"CURVE") -> bytes:
    """The first 64 bytes of a ZMTP 3 peer (ZeroMQ RFC 23)."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, data: bytes) -> bytes:
    """A ZMTP 3 command of a handshake."""
    body = bytes([len(name)]) + name + data
    if len(body) < 256:
        return b"\x04" + bytes([len(body)]) + body
    return announced(len(body)) + body


def announced(size: int) -> bytes:
    """The beginning of a command of that many bytes."""
    return b"\x06" + struct.pack(">Q", size)


FOREIGN = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(507),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zmtp 1": b"\x01\x00\x05\x00help",
    "zmtp 2": b"\xff" + bytes(7) + b"\x01\x7f\x01\x05\x00\x00\x00\x04help",
    "random bytes": random.Random(3).randbytes(400),
    "null": greeting(b"NULL") + command(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER"),
    "plain": greeting(b"PLAIN") + command(b"HELLO", b"\x05admin\x05admin"),
    "unknown mechanism": greeting(b"GSSAPI"),
    "hello too short": greeting() + command(b"HELLO", b"\x01\x00"),
    "hello of zeros": greeting() + command(b"HELLO", b"\x01\x00" + bytes(192)),
    "initiate first": greeting() + command(b"INITIATE", bytes(300)),
    "message first": greeting() + b"\x00\x30\x07MESSAGE" + bytes(40),
}
