"""A CurveZMQ client made of bytes, for what libzmq's own client never sends (RFC 23, RFC 26)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
from nacl import bindings

_LONG, _COMMAND = 0x02, 0x04
_MORE = 0x01


def greeting(mechanism: bytes = b"CURVE", *, minor: int = 0) -> bytes:
    """The first 64 bytes of a ZMTP 3 peer that connects."""
    return (
        b"\xff" + bytes(8) + b"\x7f\x03" + bytes([minor]) + mechanism.ljust(20, b"\0") + bytes(32)
    )


def frame(body: bytes, *, flags: int = 0) -> bytes:
    """A ZMTP 2/3 frame."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | _LONG]) + struct.pack(">Q", len(body)) + body


def command(name: bytes, data: bytes) -> bytes:
    """A ZMTP 3 command."""
    return frame(bytes([len(name)]) + name + data, flags=_COMMAND)


def metadata(properties: Mapping[str, bytes]) -> bytes:
    """Properties as a handshake carries them."""
    return b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value
        for name, value in properties.items()
    )


class RawKeys(NamedTuple):
    """Keys of 32 bytes: the server's public one, the client's pair."""

    server: bytes
    public: bytes
    secret: bytes


class RawPeer:
    """One connection; each step of the handshake is taken when it is called."""

    def __init__(self, port: int, keys: RawKeys, *, timeout: float = 2.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._file = self.socket.makefile("rb")
        self._server, self._public, self._secret = keys
        self._short_public, self._short_secret = bindings.crypto_box_keypair()
        self._short_server = b""
        self._cookie = b""
        self._shared = b""
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self.socket.close()

    def greet(self) -> None:
        """Exchange greetings."""
        self.socket.sendall(greeting())
        theirs = self._read(64)
        assert theirs[12:17] == b"CURVE", theirs

    def hello(self) -> None:
        """Send HELLO and read WELCOME."""
        nonce = self._nonce()
        sealed = bindings.crypto_box(
            bytes(64), b"CurveZMQHELLO---" + nonce, self._server, self._short_secret
        )
        self.socket.sendall(
            command(b"HELLO", b"\x01\x00" + bytes(72) + self._short_public + nonce + sealed)
        )
        welcome = self._expect(b"WELCOME")
        opened = bindings.crypto_box_open(
            welcome[16:], b"WELCOME-" + welcome[:16], self._server, self._short_secret
        )
        self._short_server, self._cookie = opened[:32], opened[32:]
        self._shared = bindings.crypto_box_beforenm(self._short_server, self._short_secret)

    def initiate(self, properties: Mapping[str, bytes]) -> None:
        """Send INITIATE with this metadata and read READY."""
        long_nonce = os.urandom(16)
        vouch = bindings.crypto_box(
            self._short_public + self._server,
            b"VOUCH---" + long_nonce,
            self._short_server,
            self._secret,
        )
        nonce = self._nonce()
        plain = self._public + long_nonce + vouch + metadata(properties)
        sealed = bindings.crypto_box_afternm(plain, b"CurveZMQINITIATE" + nonce, self._shared)
        self.socket.sendall(command(b"INITIATE", self._cookie + nonce + sealed))
        ready = self._expect(b"READY")
        bindings.crypto_box_open_afternm(ready[8:], b"CurveZMQREADY---" + ready[:8], self._shared)

    def connect(self, properties: Mapping[str, bytes] | None = None) -> Self:
        """Do the whole handshake as a DEALER."""
        self.greet()
        self.hello()
        self.initiate({"Socket-Type": b"DEALER", **(properties or {})})
        return self

    def send(self, payload: bytes, *, more: bool = False) -> None:
        """Send one frame of a message."""
        nonce = self._nonce()
        plain = bytes([_MORE if more else 0]) + payload
        sealed = bindings.crypto_box_afternm(plain, b"CurveZMQMESSAGEC" + nonce, self._shared)
        self.socket.sendall(frame(b"\x07MESSAGE" + nonce + sealed))

    def receive(self) -> bytes:
        """The payload of the next frame."""
        body = self._frame()
        while not body.startswith(b"\x07MESSAGE"):
            body = self._frame()
        return bindings.crypto_box_open_afternm(
            body[16:], b"CurveZMQMESSAGES" + body[8:16], self._shared
        )[1:]

    def ask(self, method: str, params: object = None) -> dict[str, Any]:
        """Send a request and return what comes back."""
        self.send(msgpack.packb({"v": 1, "id": 1, "method": method, "params": params or {}}))
        answer: dict[str, Any] = msgpack.unpackb(self.receive())
        return answer

    def _nonce(self) -> bytes:
        self._sent += 1
        return struct.pack(">Q", self._sent)

    def _expect(self, name: bytes) -> bytes:
        body = self._frame()
        prefix = bytes([len(name)]) + name
        assert body.startswith(prefix), body[:32]
        return body[len(prefix) :]

    def _frame(self) -> bytes:
        flags, size = self._read(2)
        if flags & _LONG:
            (size,) = struct.unpack(">Q", bytes([size]) + self._read(7))
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ConnectionResetError("the server closed the connection")
        return data
