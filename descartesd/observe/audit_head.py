"""The signed head of the audit log: how far it reaches, so that nobody can cut its tail off."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from descartesd.keys.seal import Sealer, is_sealed
from descartesd.keys.z85 import decode_key, encode_key

_CONTEXT = b"descartes-audit-head\n"


class Head(Struct, frozen=True, kw_only=True):
    """The last line at a moment: its number, its hash, and the byte behind it in its file.

    `file_first` is the first line of that file, `first` the oldest one kept. `key` is the public
    key in Z85, `signature` hex.
    """

    seq: int
    hash: str
    file_first: int
    offset: int
    first: int
    time: float
    key: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class HeadStore:
    """Where the head is kept: `save` tells whether it could be."""

    load: Callable[[], str | None]
    save: Callable[[str], bool]


def signed(head: Head, sealer: Sealer) -> Head:
    """The same head with its signature."""
    head = replace(head, key=encode_key(sealer.public), signature="")
    return replace(head, signature=sealer.sign(_message(head)).hex())


def is_genuine(head: Head, public: bytes) -> bool:
    """Whether the holder of the key has signed exactly this."""
    try:
        signature = binascii.unhexlify(head.signature)
        is_ours = decode_key(head.key) == public
    except ValueError:
        return False
    return is_ours and is_sealed(public, _message(replace(head, signature="")), signature)


def text_of(head: Head) -> str:
    """As it is kept."""
    return msgspec.json.encode(head).decode()


def head_of(text: str | None) -> Head | None:
    """Read it back; None for none, or for what is no head."""
    try:
        return None if text is None else msgspec.json.decode(text, type=Head)
    except msgspec.DecodeError:
        return None


def _message(head: Head) -> bytes:
    return _CONTEXT + msgspec.json.encode(head)
