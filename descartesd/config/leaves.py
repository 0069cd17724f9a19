"""The schema taken apart: one leaf per setting, and whether a value fits it."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Meta, Struct

from descartesd.config.schema import Config
from descartesd.wire.codec import nearest

_SHOWN = 80
_KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting. `key` is dotted; a table of free names (`is_table`) is one leaf."""

    key: str
    type: Any
    default: Any

    @property
    def base(self) -> Any:
        """The type without its bounds, and without the nothing that only a default may be."""
        kind = typing.get_args(self.type)[0]
        return typing.get_args(_given(kind))[0] if _given(kind) is not kind else kind

    @property
    def is_table(self) -> bool:
        """Whether its names are the user's."""
        return typing.get_origin(self.base) is dict

    @property
    def entry(self) -> type[Struct] | None:
        """What an entry of a table of free names is, where it is a table itself."""
        if not self.is_table:
            return None
        kind = typing.get_args(self.base)[1]
        return kind if isinstance(kind, type) and issubclass(kind, Struct) else None

    @property
    def description(self) -> str:
        """What the setting does."""
        return next((m.description for m in self.metas if m.description), "")

    @property
    def metas(self) -> list[Meta]:
        """Everything declared about the value."""
        kind, *metas = typing.get_args(self.type)
        if _given(kind) is not kind:
            metas += typing.get_args(_given(kind))[1:]
        return [m for m in metas if isinstance(m, Meta)]

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, None when it fits."""
        if (refused := token_fault(value)) is not None:
            return refused
        if not _fits(value, self.base):
            return f"expected {_kind(self.base, self.metas)}, got {shown(value)}"
        if not _fits(value, self.type):
            return f"expected {_kind(self.base, self.metas, bounds=True)}, got {shown(value)}"
        return check_fault(value, self.metas)

    def entry_fault(self, name: str, value: Any) -> str | None:
        """The same for one entry of a table of free names."""
        if (wrong_name := self.name_fault(name)) is not None:
            return wrong_name
        value_type = typing.get_args(self.base)[1]
        if (refused := token_fault(value)) is not None:
            return refused
        if not _fits(value, value_type):
            metas = [m for m in typing.get_args(value_type)[1:] if isinstance(m, Meta)]
            return f"expected {_kind(value_type, metas)}, got {shown(value)}"
        return None

    def name_fault(self, name: str) -> str | None:
        """The same for the name of an entry alone."""
        name_type = typing.get_args(self.base)[0]
        if _fits(name, name_type):
            return None
        title = next(m.title for m in typing.get_args(name_type)[1:])
        return f"expected {title}, got '{name[:_SHOWN]}'"


def leaves(kind: type[Struct] = Config, prefix: str = "") -> dict[str, Leaf]:
    """Every setting below a section, by its dotted key, in the schema's order."""
    found: dict[str, Leaf] = {}
    for each in msgspec.structs.fields(kind):
        key = f"{prefix}{each.name}"
        if isinstance(each.type, type) and issubclass(each.type, Struct):
            found.update(leaves(each.type, f"{key}."))
        else:
            default = each.default if each.default is not msgspec.NODEFAULT else {}
            found[key] = Leaf(key, each.type, default)
    return found


def unknown(key: str, siblings: AbstractSet[str], known: dict[str, Leaf]) -> str:
    """The fault of a key nothing is known about, with the one probably meant."""
    name = key.rpartition(".")[2]
    elsewhere = [each for each in known if each.rpartition(".")[2] == name]
    near = nearest(name, siblings) or (elsewhere[0] if elsewhere else None)
    return f"unknown key (did you mean '{near}'?)" if near else "unknown key"


def shown(value: Any) -> str:
    """A value as a fault names it."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case _:
            text = repr(value)
            return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _given(kind: Any) -> Any:
    """What a value that is given is, where the default may be None."""
    parts = typing.get_args(kind)
    return parts[0] if len(parts) == 2 and parts[1] is types.NoneType else kind


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def token_fault(value: Any) -> str | None:
    """What is wrong with a value that would be evaluated instead of taken; None of others."""
    # dynaconf evaluates such values (@format, @int, @jinja …) instead of taking them as written.
    if isinstance(value, list):
        return next(filter(None, map(token_fault, value)), None)
    if isinstance(value, str) and value.startswith("@"):
        return "expected a value that does not begin with '@'"
    return None


def check_fault(value: Any, metas: list[Meta]) -> str | None:
    """What the check a setting declares has against a value."""
    for meta in metas:
        check: Callable[[Any], object] | None = (meta.extra or {}).get("check")
        if check is not None:
            try:
                check(tuple(value) if isinstance(value, list) else value)
            except ValueError as exc:
                return str(exc)
    return None


def _kind(base: Any, metas: list[Meta], *, bounds: bool = False) -> str:
    if title := next((m.title for m in metas if m.title), None):
        return title
    if typing.get_origin(base) is Literal:
        return f"one of {', '.join(repr(each) for each in typing.get_args(base))}"
    if bounds:
        meta = next(m for m in metas if m.ge is not None)
        return f"{_KINDS[base]} from {meta.ge} to {meta.le}"
    return _KINDS.get(base, "a table")
