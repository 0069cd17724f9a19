"""Renders the page of methods from their table."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import functools
import json
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from descartesd.wire.methods import METHODS, Method

METHODS_INTRO = """
Every method, with the role it needs and whether a client may send it again.
How a request travels is told in [the protocol](protocol.md), what may go wrong in
[errors](errors.md).

What a client may do when the connection was lost before the answer came:
`read` and `state` are sent again (the first changes nothing, the second is idempotent by the
agent's state), `idem` is sent again under its idempotency key, `never` is not sent again.

A type in a table is text, number, integer, true or false, bytes (msgpack bin), a list or a map.
Where a field is not required it may be left out.
"""


def methods_page() -> str:
    """docs/reference/methods.md."""
    overview = table(
        ("method", "role", "re-sent", "summary"),
        (
            (f"[`{m.name}`](#{anchor(m.name)})", m.permission, m.resend, m.summary)
            for m in METHODS.values()
        ),
    )
    types = sorted(_types(), key=lambda kind: kind.__name__)
    return page(
        "Methods",
        "descartesd/wire/methods.py",
        METHODS_INTRO,
        overview,
        *map(_method, METHODS.values()),
        "## Types\n",
        *map(_type, types),
    )


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def _method(method: Method[Any, Any]) -> str:
    kind = "Stream of" if method.stream else "Reply:"
    reply = _link(method.reply) if _fields(method.reply) else "an empty map"
    lines = [
        f"## {method.name}",
        "",
        sentences(method.summary),
        "",
        f"Role `{method.permission}`, re-sent `{method.resend}`, since {method.since}.",
        f"{kind} {reply}.",
        "",
        f"Params: {sentences(method.request.__doc__ or '')}",
        "",
    ]
    fields = _field_table(method.request)
    return "\n".join([*lines, *([fields] if fields else [])])


def _type(kind: type[msgspec.Struct]) -> str:
    head = f"### Type {kind.__name__}\n\n{sentences(kind.__doc__ or '')}\n\n"
    return head + _field_table(kind)


def _types() -> set[type[msgspec.Struct]]:
    """Every struct a reply has or is, and every one inside a request."""
    found: set[type[msgspec.Struct]] = set()
    requests = {method.request for method in METHODS.values()}
    pending: list[Any] = [inspect.type_info(m.reply) for m in METHODS.values()]
    pending += [inspect.type_info(request) for request in requests]
    while pending:
        info = pending.pop()
        if isinstance(info, inspect.StructType):
            if info.cls in found:
                continue
            found.add(info.cls)
            pending += [field.type for field in info.fields]
        else:
            pending += _inside(info)
    return {kind for kind in found - requests if _fields(kind)}


def _inside(info: Any) -> Iterator[Any]:
    for name in ("type", "item_type", "key_type", "value_type"):
        inner = getattr(info, name, None)
        if inner is not None:
            yield inner
    if isinstance(info, inspect.UnionType):
        yield from info.types


def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    return info.fields if isinstance(info, inspect.StructType) else ()


def _field_table(kind: type[msgspec.Struct]) -> str:
    fields = _fields(kind)
    if not fields:
        return ""
    rows = ((f"`{f.encode_name}`", _name(f.type), _default(f)) for f in fields)
    return table(("field", "type", "default"), rows)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    return f"`{json.dumps(value)}`" if value is not None else "nil"


def _link(kind: type[msgspec.Struct]) -> str:
    return f"[{kind.__name__}](#{anchor(f'Type {kind.__name__}')})"


def _name(info: Any) -> str:
    match info:
        case inspect.Metadata():
            return _name(info.type)
        case inspect.StructType():
            return _link(info.cls)
        case inspect.UnionType():
            return " or ".join(map(_name, info.types))
        case inspect.LiteralType():
            return ", ".join(f'`"{value}"`' for value in _in_order(info.values))
        case inspect.ListType() | inspect.VarTupleType():
            return f"list of {_name(info.item_type)}{_length(info, 'entries')}"
        case inspect.DictType():
            keys, values = _name(info.key_type), _name(info.value_type)
            return f"map of {keys} to {values}{_length(info, 'entries')}"
        case inspect.StrType():
            pattern = f" matching `{_pattern(info.pattern)}`" if info.pattern else ""
            return f"text{pattern}{_length(info, 'characters')}"
        case inspect.BytesType():
            return f"bytes{_length(info, 'bytes')}"
        case inspect.IntType() | inspect.FloatType():
            return f"{_PLAIN[type(info)]}{_range(info)}"
        case _:
            return _PLAIN[type(info)]


@functools.cache
def _written_orders() -> dict[frozenset[str], tuple[str, ...]]:
    """The values of every Literal in the order of the source; msgspec sorts them."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    pending: list[Any] = [m.request for m in METHODS.values()] + [*_types()]
    while pending:
        hint = pending.pop()
        if typing.get_origin(hint) is typing.Literal:
            found[frozenset(typing.get_args(hint))] = typing.get_args(hint)
        elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            pending += [each for each in typing.get_type_hints(hint).values() if each != hint]
        else:
            pending += typing.get_args(hint)
    return found


def _in_order(values: Iterable[str]) -> tuple[str, ...]:
    return _written_orders()[frozenset(values)]


_PLAIN = {
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "true or false",
    inspect.NoneType: "nil",
    inspect.AnyType: "anything",
}


def _pattern(pattern: str) -> str:
    # What refuses a newline at the end is noise to a reader.
    return pattern.removesuffix(r"(?!\n)").replace("|", r"\|")


def _length(info: Any, unit: str) -> str:
    least, most = info.min_length, info.max_length
    if least is not None and most is not None:
        return f", {least} {unit}" if least == most else f", {least} to {most} {unit}"
    if most is not None:
        return f", at most {most} {unit}"
    return f", at least {least} {unit}" if least is not None else ""


def _range(info: Any) -> str:
    if info.ge is not None and info.le is not None:
        return f", {info.ge} to {info.le}"
    return f", {info.ge} or more" if info.ge is not None else ""


def page(title: str, source: str, intro: str, *parts: str) -> str:
    """A page with its heading and where it comes from."""
    head = f"# {title}\n\n<!-- Generated from {source} by packaging/generate_docs.py. -->\n\n"
    return head + "\n".join([intro.strip() + "\n", *parts])


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    names = list(headers)
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def sentences(text: str) -> str:
    """One sentence a line."""
    return re.sub(r"(?<=[.!?]) +(?=[A-Z`])", "\n", " ".join(text.split()))
