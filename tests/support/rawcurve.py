"""A CurveZMQ client on a plain socket that can stop, lie, repeat and break rules at every step.

Speaks ZMTP 3.1 (ZeroMQ RFC 37) with the CURVE mechanism (RFC 26) over TCP or a Unix socket:

    raw = RawCurve.connect(endpoint, server_key, keys)      a socket, nothing sent yet
    raw.greet(); raw.hello(); raw.welcome(); raw.initiate(properties); raw.ready()
    raw.handshake(...)                                      all of these
    raw.send(b"one", b"two"); raw.receive()                 whole messages
    raw.send_frame(b"part", more=True, nonce=7)             single frames, any nonce, any flags
    raw.send_bytes(anything)                                any bytes at all

Every step returns the bytes it sent, for sending them again. Keys are 32 bytes.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from nacl.bindings import crypto_box, crypto_box_keypair, crypto_box_open
from nacl.exceptions import CryptoError

MORE = 0x01
COMMAND = 0x02
_LONG_FRAME = 0x02
_COMMAND_FRAME = 0x04
_GREETING_BYTES = 64
_COOKIE_BYTES = 96
_KEY_BYTES = 32

Property = tuple[bytes, bytes]


class RefusedError(ConnectionError):
    """The server sent ERROR; its reason is the text (for a key ZAP refuses: '400')."""


@dataclass(frozen=True, slots=True)
class RawKeys:
    """A long-term key pair, 32 bytes each."""

    public: bytes
    secret: bytes

    @classmethod
    def new(cls) -> RawKeys:
        """Make one."""
        return cls(*crypto_box_keypair())


def properties(
    socket_type: bytes = b"DEALER", identity: bytes | None = b"", *more: Property
) -> list[Property]:
    """What a libzmq client says about itself, and whatever else is given."""
    found = [(b"Socket-Type", socket_type)]
    if identity is not None:
        found.append((b"Identity", identity))
    return [*found, *more]


class RawCurve:
    """One connection. Reading waits at most `timeout` seconds; TimeoutError then."""

    def __init__(
        self, connection: socket.socket, server_key: bytes, keys: RawKeys | None = None
    ) -> None:
        self.connection = connection
        self.server_key = server_key
        self.keys = keys or RawKeys.new()
        self.short = RawKeys.new()
        self.server_short = b""
        self.cookie = b""
        self.server_properties: list[Property] = []
        self._nonce = 0
        self._received = b""

    @classmethod
    def connect(
        cls,
        endpoint: str,
        server_key: bytes,
        keys: RawKeys | None = None,
        *,
        timeout: float = 5.0,
    ) -> RawCurve:
        """Connect to `tcp://HOST:PORT` or `ipc://PATH`."""
        scheme, _, address = endpoint.partition("://")
        if scheme == "ipc":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout)
            connection.connect(address)
        else:
            host, _, port = address.rpartition(":")
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout)
        return cls(connection, server_key, keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, without any farewell (ZMTP has none)."""
        self.connection.close()

    def handshake(self, said: Sequence[Property] | None = None) -> list[Property]:
        """Do all of it; what the server says about itself. Raises RefusedError."""
        self.greet()
        self.read_greeting()
        self.hello()
        self.welcome()
        self.initiate(properties() if said is None else said)
        return self.ready()

    def greet(
        self,
        mechanism: bytes = b"CURVE",
        *,
        version: tuple[int, int] = (3, 1),
        as_server: bool = False,
    ) -> bytes:
        """Send the 64 bytes of the greeting."""
        greeting = b"\xff" + bytes(8) + b"\x7f" + bytes(version)
        greeting += mechanism.ljust(20, b"\0") + bytes([as_server])
        return self.send_bytes(greeting.ljust(_GREETING_BYTES, b"\0"))

    def read_greeting(self) -> bytes:
        """Read the server's."""
        return self._read(_GREETING_BYTES)

    def hello(self, *, nonce: int | None = None) -> bytes:
        """Send HELLO: our short-term key, and a box of zeros that proves we know the server's."""
        count = self._count(nonce)
        box = crypto_box(bytes(64), b"CurveZMQHELLO---" + count, self.server_key, self.short.secret)
        body = b"\1\0" + bytes(72) + self.short.public + count + box
        return self.send_command(b"HELLO", body)

    def welcome(self) -> bytes:
        """Read WELCOME: the server's short-term key and the cookie."""
        body = self._expect(b"WELCOME")
        box = _open(body[16:], b"WELCOME-" + body[:16], self.server_key, self.short.secret)
        self.server_short, self.cookie = box[:_KEY_BYTES], box[_KEY_BYTES:]
        if len(self.cookie) != _COOKIE_BYTES:
            raise ConnectionError(f"a cookie of {len(self.cookie)} bytes")
        return body

    def initiate(
        self,
        said: Sequence[Property] = (),
        *,
        nonce: int | None = None,
        cookie: bytes | None = None,
        vouch: bytes | None = None,
    ) -> bytes:
        """Send INITIATE: our long-term key, the vouch that joins it to the short-term one, and
        what we say about ourselves, true or not.
        """
        count = self._count(nonce)
        plain = self.keys.public + (self.vouch() if vouch is None else vouch)
        plain += b"".join(_property(*each) for each in said)
        box = crypto_box(plain, b"CurveZMQINITIATE" + count, self.server_short, self.short.secret)
        return self.send_command(b"INITIATE", (cookie or self.cookie) + count + box)

    def vouch(self) -> bytes:
        """The statement by our long-term key that the short-term one is ours."""
        count = os.urandom(16)
        plain = self.short.public + self.server_key
        return count + crypto_box(plain, b"VOUCH---" + count, self.server_short, self.keys.secret)

    def ready(self) -> list[Property]:
        """Read READY: what the server says about itself. Raises RefusedError."""
        body = self._expect(b"READY")
        plain = self._open_short(body[8:], b"CurveZMQREADY---" + body[:8])
        self.server_properties = _properties(plain)
        return self.server_properties

    def send(self, *frames: bytes) -> bytes:
        """Send one message of these frames."""
        last = len(frames) - 1
        return b"".join(
            self.send_frame(frame, more=number < last) for number, frame in enumerate(frames)
        )

    def send_frame(
        self,
        body: bytes,
        *,
        more: bool = False,
        nonce: int | None = None,
        flags: int | None = None,
    ) -> bytes:
        """Send one frame in a MESSAGE; `flags` (MORE, COMMAND, any byte) replaces `more`."""
        return self.send_bytes(self.sealed(body, more=more, nonce=nonce, flags=flags))

    def sealed(
        self,
        body: bytes,
        *,
        more: bool = False,
        nonce: int | None = None,
        flags: int | None = None,
    ) -> bytes:
        """The bytes `send_frame` would send."""
        count = self._count(nonce)
        plain = bytes([(MORE if more else 0) if flags is None else flags]) + body
        box = crypto_box(plain, b"CurveZMQMESSAGEC" + count, self.server_short, self.short.secret)
        return _frame(0, b"\x07MESSAGE" + count + box)

    def receive(self) -> list[bytes]:
        """Read one message; heartbeats are answered and left out."""
        frames: list[bytes] = []
        while True:
            flags, body = self.receive_frame()
            if flags & COMMAND:
                if body.startswith(b"\x04PING"):
                    self.send_frame(b"\x04PONG" + body[7:], flags=COMMAND)
                continue
            frames.append(body)
            if not flags & MORE:
                return frames

    def receive_frame(self) -> tuple[int, bytes]:
        """Read one frame out of its MESSAGE: its flags and its body."""
        body = self._expect(b"MESSAGE")
        plain = self._open_short(body[8:], b"CurveZMQMESSAGES" + body[:8])
        return plain[0], plain[1:]

    def send_command(self, name: bytes, body: bytes) -> bytes:
        """Send a command frame of any name and body."""
        return self.send_bytes(_frame(_COMMAND_FRAME, bytes([len(name)]) + name + body))

    def send_bytes(self, data: bytes) -> bytes:
        """Send anything."""
        self.connection.sendall(data)
        return data

    def read_frame(self) -> tuple[int, bytes]:
        """Read one ZMTP frame: its flags and its body, whatever it is."""
        flags = self._read(1)[0]
        if flags & _LONG_FRAME:
            (size,) = struct.unpack(">Q", self._read(8))
        else:
            size = self._read(1)[0]
        return flags, self._read(size)

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the server closes the connection in this time; what it sends is thrown away."""
        before = self.connection.gettimeout()
        self.connection.settimeout(seconds)
        try:
            while self.connection.recv(65_536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        finally:
            self.connection.settimeout(before)
        return True

    def _expect(self, name: bytes) -> bytes:
        _, frame = self.read_frame()
        size = frame[0] if frame else 0
        found, body = frame[1 : 1 + size], frame[1 + size :]
        if found == b"ERROR":
            raise RefusedError(body[1 : 1 + body[0]].decode("utf-8", "replace"))
        if found != name:
            raise ConnectionError(f"expected {name!r}, got {frame[:16]!r}")
        return body

    def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            data = self.connection.recv(65_536)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._received += data
        found, self._received = self._received[:size], self._received[size:]
        return found

    def _count(self, nonce: int | None) -> bytes:
        if nonce is None:
            self._nonce += 1
            nonce = self._nonce
        return struct.pack(">Q", nonce)

    def _open_short(self, box: bytes, nonce: bytes) -> bytes:
        return _open(box, nonce, self.server_short, self.short.secret)


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | _LONG_FRAME]) + struct.pack(">Q", len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _properties(data: bytes) -> list[Property]:
    found = []
    while data:
        name, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        (size,) = struct.unpack(">I", data[:4])
        found.append((name, data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def _open(box: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    try:
        return bytes(crypto_box_open(box, nonce, public, secret))
    except CryptoError as exc:
        raise ConnectionError("a box of the server does not open") from exc
