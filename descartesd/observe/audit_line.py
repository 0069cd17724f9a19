"""A line of the audit log as bytes, and the hash that chains it to the next one."""

from __future__ import annotations

import hashlib

import msgspec

from descartesd.wire.audit import AuditLine
from descartesd.wire.printable import printable

# What the very first line names as the one before.
NOTHING = "0" * 64

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AuditLine)


def encoded(line: AuditLine) -> bytes:
    """One line without its end: nothing in it moves a cursor or begins another line."""
    return printable(_encoder.encode(line))


def decoded(data: bytes) -> AuditLine | None:
    """Read it back; None where that is no line of this log."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def hash_of(line: bytes) -> str:
    """BLAKE2b-256 of the bytes of a line without its end, in hex."""
    return hashlib.blake2b(line, digest_size=32).hexdigest()
