"""Z85, the text form of CURVE keys (ZeroMQ RFC 32)."""

from __future__ import annotations

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

KEY_BYTES = 32
KEY_CHARACTERS = 40


def encode_key(key: bytes) -> str:
    """The 40 characters of a 32-byte key."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"expected {KEY_BYTES} bytes, got {len(key)}")
    characters = []
    for start in range(0, KEY_BYTES, 4):
        group = int.from_bytes(key[start : start + 4], "big")
        characters += [_ALPHABET[group // 85**power % 85] for power in (4, 3, 2, 1, 0)]
    return "".join(characters)


def decode_key(text: str) -> bytes:
    """The 32 bytes of a key's 40 characters.

    Raises ValueError when they are not Z85; the message does not repeat them.
    """
    if len(text) != KEY_CHARACTERS:
        raise ValueError(f"expected {KEY_CHARACTERS} characters of Z85, got {len(text)}")
    values = [_ALPHABET.find(character) for character in text]
    if -1 in values:
        raise ValueError(f"expected Z85, character {values.index(-1) + 1} is none of it")
    key = bytearray()
    for start in range(0, KEY_CHARACTERS, 5):
        group = 0
        for value in values[start : start + 5]:
            group = group * 85 + value
        if group >= 1 << 32:
            raise ValueError(f"expected Z85, characters {start + 1} to {start + 5} are too large")
        key += group.to_bytes(4, "big")
    return bytes(key)
