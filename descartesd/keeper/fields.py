"""Reads the fields of a request: right type and range, or an error that names the field."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from descartesd.errors import InvalidArgumentError
from descartesd.keeper.terminal import SIDE_MAX, Size

SIGNALS_MAX: Final = 64
Fields = Mapping[str, Any]


def text(fields: Fields, key: str) -> str:
    """A text without NUL.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise _wrong(key, "a text without NUL", value)
    return value


def choice(fields: Fields, key: str, choices: tuple[str, ...]) -> str:
    """One of these texts.

    Raises InvalidArgumentError.
    """
    value = text(fields, key)
    if value not in choices:
        raise InvalidArgumentError(
            f"{key}: expected one of {', '.join(choices)}, got '{value:.80}'"
        )
    return value


def flag(fields: Fields, key: str) -> bool:
    """A truth value, false when it is missing.

    Raises InvalidArgumentError.
    """
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def agent_id(fields: Fields) -> str:
    """`agent_id`: 1 to 64 of a-z, A-Z, 0-9, '-' and '_', as it becomes a file name.

    Raises InvalidArgumentError.
    """
    value = text(fields, "agent_id")
    plain = value.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum() and len(value) <= 64):
        raise InvalidArgumentError(
            f"agent_id: expected 1 to 64 letters and digits, got {value!r:.80}"
        )
    return value


def number(fields: Fields, key: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """An integer.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(key, f"an integer from {least} to {most}", value)
    return value


def numbers(fields: Fields, key: str, *, most: int = 2**63 - 1) -> list[int]:
    """A list of integers from 0 up.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if not isinstance(value, list):
        raise _wrong(key, "a list of integers", value)
    return [number({key: each}, key, most=most) for each in value]


def signum(fields: Fields) -> int:
    """`signal`: a signal number (signal(7)).

    Raises InvalidArgumentError.
    """
    return number(fields, "signal", least=1, most=SIGNALS_MAX)


def seconds(fields: Fields, key: str) -> float:
    """A finite number of seconds, not negative.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(key, "a number of seconds", value)
    if not math.isfinite(value) or value < 0:
        raise _wrong(key, "a finite number of seconds from 0 up", value)
    return float(value)


def texts(fields: Fields, key: str, *, least: int = 0) -> list[str]:
    """A list of texts without NUL.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if not isinstance(value, list) or len(value) < least or not _are_texts(value):
        raise _wrong(key, f"a list of at least {least} texts without NUL", value)
    return value


def size(fields: Fields) -> Size:
    """`rows` and `cols` of a terminal.

    Raises InvalidArgumentError.
    """
    return Size(
        number(fields, "rows", least=1, most=SIDE_MAX),
        number(fields, "cols", least=1, most=SIDE_MAX),
    )


def environment(fields: Fields, key: str) -> dict[str, str]:
    """A map of texts to texts whose names are not empty and hold no '='.

    Raises InvalidArgumentError; the message never shows a value of the map.
    """
    value = fields.get(key)
    if not isinstance(value, dict):
        raise _wrong(key, "a map of texts", value)
    if _are_variables(value):
        return value
    # One by one, to say which it is.
    for name, content in value.items():
        if not _is_text(name) or not name or "=" in name:
            raise InvalidArgumentError(f"{key}: expected names without '=' and NUL, got {name!r}")
        if not _is_text(content):
            raise InvalidArgumentError(f"{key}: expected a text without NUL as value of '{name}'")
    return value


def mapping(fields: Fields, key: str) -> Fields:
    """A map; an empty one where the key is missing.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, "a map", value)
    return value


def mappings(fields: Fields, key: str) -> list[Fields]:
    """A list of maps.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _wrong(key, "a list of maps", value)
    return value


def data(fields: Fields, key: str) -> bytes:
    """Bytes.

    Raises InvalidArgumentError.
    """
    value = fields.get(key)
    if not isinstance(value, bytes):
        raise _wrong(key, "bytes", value)
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _are_texts(values: Iterable[Any]) -> bool:
    """Whether all are texts without NUL; looked at as one, they cost a start less than each."""
    try:
        return "\0" not in "".join(values)
    except TypeError:
        return False


def _are_variables(value: dict[Any, Any]) -> bool:
    try:
        names, contents = "".join(value), "".join(value.values())
    except TypeError:
        return False
    return not ("" in value or "=" in names or "\0" in names or "\0" in contents)


def _wrong(key: str, expected: str, value: Any) -> InvalidArgumentError:
    if isinstance(value, int | float):
        return InvalidArgumentError(f"{key}: expected {expected}, got {value}")
    return InvalidArgumentError(f"{key}: expected {expected}, got {type(value).__name__}")
