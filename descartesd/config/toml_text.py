"""Writes values as TOML text (tomllib only reads)."""

from __future__ import annotations

from collections.abc import Sequence

_ESCAPES = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), 0x7F)},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}
_LINE_ESCAPES = {code: text for code, text in _ESCAPES.items() if code != ord("\n")}


def toml_text(value: str | float | Sequence[str]) -> str:
    """One value on one line: a basic string, a number, a boolean or a list of strings."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case int() | float():
            return str(value)
        case _:
            return f"[{', '.join(toml_text(item) for item in value)}]"


def toml_lines(text: str) -> str:
    """A text of several lines as a multi-line basic string."""
    return f'"""\n{text.translate(_LINE_ESCAPES)}"""'
