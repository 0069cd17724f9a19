"""Makes text, and JSON, that a terminal obeys nothing of."""

from __future__ import annotations


def printable(data: bytes) -> bytes:
    """Escape what the encoder leaves as it is though no one can see it: DEL, C1, bidi controls."""
    # Most is plain ASCII, where only DEL is left to escape.
    if data.isascii():
        return data.replace(b"\x7f", b"\\u007f")
    return shown(data.decode("utf-8", "replace")).encode()


def shown(text: str) -> str:
    """The text with an escape in the place of each character that cannot be seen."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
