"""A line of the audit log as bytes, and the hash that chains it to the next one."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from descartesd.wire.audit import AuditLine, Phase
from descartesd.wire.printable import printable

# What the very first line names as the one before.
NOTHING = "0" * 64

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AuditLine)


class Entry(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a line says, before it has its number; the fields are those of an AuditLine."""

    identity: str
    method: str
    phase: Phase
    certificate: str | None = None
    target: str | None = None
    outcome: str | None = None
    intent: int | None = None
    count: int | None = None
    failed: int | None = None
    detail: str | None = None


def encoded(seq: int, when: float, entry: Entry, prev: str) -> bytes:
    """One line without its end: nothing in it moves a cursor or begins another line."""
    # The whole line as one Struct would cost twice as much.
    said = printable(_encoder.encode(entry))
    return b'{"seq":%d,"time":%.6f,%b,"prev":"%b"}' % (seq, when, said[1:-1], prev.encode())


def decoded(data: bytes) -> AuditLine | None:
    """Read it back; None where that is no line of this log."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def hash_of(line: bytes) -> str:
    """BLAKE2b-256 of the bytes of a line without its end, in hex."""
    return hashlib.blake2b(line, digest_size=32).hexdigest()
