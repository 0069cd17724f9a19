"""Writes values as TOML text (tomllib only reads)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, time
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), 0x7F)},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}
_LINE_ESCAPES = {code: text for code, text in _ESCAPES.items() if code != ord("\n")}


def toml_text(value: Any) -> str:
    """One value of TOML on one line, whatever it is."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case int() | float():
            return str(value)
        case date() | time():
            return value.isoformat()
        case dict():
            pairs = (f"{toml_key([name])} = {toml_text(each)}" for name, each in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return f"[{', '.join(toml_text(item) for item in value)}]"


def toml_key(path: Sequence[str]) -> str:
    """A dotted key; a part that could not stand in it as it is stands in quotes."""
    return ".".join(part if _BARE.fullmatch(part) else toml_text(part) for part in path)


def toml_lines(text: str) -> str:
    """A text of several lines as a multi-line basic string."""
    return f'"""\n{text.translate(_LINE_ESCAPES)}"""'
