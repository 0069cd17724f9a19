"""Argument vectors and JSON lines with places to fill; no value becomes an option or a field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

# An element, or several that stand there only when everything they name is given.
Part = str | Sequence[str]

# What a person wrote: anything at all.
_TEXTS = frozenset(("task", "system_prompt", "subagents"))
# What begins with a letter, a digit or a slash.
_WORDS = frozenset(("model", "tools", "session", "task_file"))
PLACES = _TEXTS | _WORDS

_WHOLE = re.compile(r"\{([a-z_]+)\}")
_ASSIGNED = re.compile(r"(-[^={}]*=)\{([a-z_]+)\}")
_WITHIN = re.compile(rf"\{{({'|'.join(sorted(PLACES))})\}}")
_END_OF_OPTIONS = "--"
# What some readers of lines take for the end of one, besides the newline JSON has escaped anyway.
_LINE_ENDS = {each.encode(): f"\\u{ord(each):04x}".encode() for each in "\x85\u2028\u2029"}
_ACKNOWLEDGEMENT_BYTES = 64 * 1024


def check_argv(template: Sequence[Part]) -> None:
    """Refuse a template that cannot be filled, or that would let a text become an option.

    Raises ValueError naming the element.
    """
    if not template or not isinstance(template[0], str) or not template[0]:
        raise ValueError("expected a program as its first element")
    if _place(template[0]) is not None:
        raise ValueError(f"expected a program as its first element, got '{template[0]}'")
    for part in template:
        if not isinstance(part, str) and not any(map(_place, part)):
            raise ValueError(f"expected a place such as {{model}} in the group {list(part)}")
    options_over = False
    for part in template:
        is_over_within = options_over
        for element in (part,) if isinstance(part, str) else part:
            _check_element(element, options_over=is_over_within)
            is_over_within = is_over_within or element == _END_OF_OPTIONS
        # That of a group may be left out, and what follows stand there all the same.
        options_over = options_over or part == _END_OF_OPTIONS


def _check_element(element: str, *, options_over: bool) -> None:
    if "\0" in element:
        raise ValueError("a NUL character cannot be passed to a program")
    place = _place(element)
    if place is None:
        if within := _WITHIN.search(element):
            raise ValueError(
                f"'{within[0]}' stands within '{element}': expected an element of its own, or"
                f" '-x={within[0]}'"
            )
        return
    if place not in PLACES:
        known = ", ".join(f"{{{each}}}" for each in sorted(PLACES))
        raise ValueError(f"there is no '{{{place}}}': expected one of {known}")
    if place in _TEXTS and _WHOLE.fullmatch(element) and not options_over:
        raise ValueError(
            f"'{element}' may begin with '-' and would be an option: expected '--' before it, or"
            f" '-x={element}'"
        )


def places(template: Sequence[Part]) -> frozenset[str]:
    """Everything a template has a place for."""
    return frozenset(filter(None, map(_place, _elements(template))))


def required(template: Sequence[Part]) -> frozenset[str]:
    """What a template cannot be filled without."""
    return places([part for part in template if isinstance(part, str)])


def fill_argv(
    template: Sequence[Part], values: Mapping[str, str], extra: Sequence[str] = ()
) -> list[str]:
    """Put the values into their places, and `extra` before the `--`, at the end without one.

    Every value is an element, or the end of one `-x={place}`: never split, never joined.
    Raises KeyError for a required place without a value.
    """
    argv: list[str] = []
    end: int | None = None
    for part in template:
        elements = (part,) if isinstance(part, str) else part
        if not isinstance(part, str) and not all(
            place in values for place in map(_place, part) if place is not None
        ):
            continue
        for element in elements:
            if element == _END_OF_OPTIONS and end is None:
                end = len(argv)
            argv.append(_filled(element, values))
    end = len(argv) if end is None else end
    return [*argv[:end], *extra, *argv[end:]]


def _filled(element: str, values: Mapping[str, str]) -> str:
    if whole := _WHOLE.fullmatch(element):
        return values[whole[1]]
    if assigned := _ASSIGNED.fullmatch(element):
        return f"{assigned[1]}{values[assigned[2]]}"
    return element


def _place(element: str) -> str | None:
    if whole := _WHOLE.fullmatch(element):
        return whole[1]
    assigned = _ASSIGNED.fullmatch(element)
    return None if assigned is None else assigned[2]


def _elements(template: Sequence[Part]) -> Iterator[str]:
    for part in template:
        yield from (part,) if isinstance(part, str) else part


def check_json(template: str) -> None:
    """Refuse what is no JSON; raises ValueError."""
    try:
        json.loads(template)
    except ValueError as exc:
        raise ValueError(f"expected JSON, got '{template:.80}': {exc}") from exc


def check_said(template: str) -> None:
    """Refuse what is no JSON, or has no place for the text that is to be said.

    Raises ValueError.
    """
    check_json(template)
    if not _mentions(json.loads(template), "{text}"):
        raise ValueError(f"expected a text in it that is '{{text}}', got '{template:.80}'")


def fill_json(template: str, values: Mapping[str, Any]) -> bytes:
    """One line of JSON, a newline at its end: each text that is `{place}` replaced by its value.

    A value that is a msgspec.Raw is JSON already.
    """
    line = msgspec.json.encode(_replaced(json.loads(template), values))
    for end, escaped in _LINE_ENDS.items():
        line = line.replace(end, escaped)
    return line + b"\n"


def fits_json(template: str, values: Mapping[str, Any], line: bytes) -> bool:
    """Whether a line of at most 64 KiB is JSON that has all the template has; it may have more."""
    if len(line) > _ACKNOWLEDGEMENT_BYTES:
        return False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return _has(found, _replaced(json.loads(template), values))


def _replaced(value: Any, values: Mapping[str, Any]) -> Any:
    match value:
        case str():
            place = _WHOLE.fullmatch(value)
            return values[place[1]] if place and place[1] in values else value
        case dict():
            return {key: _replaced(each, values) for key, each in value.items()}
        case list():
            return [_replaced(each, values) for each in value]
        case _:
            return value


def _mentions(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(_mentions(each, text) for each in value)
    return bool(value == text)


def _has(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(found == wanted)
    return isinstance(found, dict) and all(
        key in found and _has(found[key], each) for key, each in wanted.items()
    )
