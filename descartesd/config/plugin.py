"""The tables of plugins, `[plugins.NAME]`: kept as written, and typed once the plugin is loaded."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from descartesd.config.leaves import check_fault, shown, token_fault
from descartesd.wire.codec import nearest
from descartesd.wire.masking import MASK, is_secret


class Text(str):
    """A value as an environment variable has it: what it stands for depends on its type."""

    __slots__ = ()


class Given(NamedTuple):
    """What one layer has for one plugin; `key` is its table's name as written there."""

    origin: str
    key: str
    plugin: str
    table: Mapping[str, Any]


class Settings(NamedTuple):
    """The settings of a plugin, or what is wrong with them."""

    value: Struct | None
    faults: list[str]


def text_table(parts: Sequence[str], text: str) -> dict[str, Any]:
    """A table with one value in it, as an environment variable names it."""
    name, *rest = parts
    return {name.lower(): text_table(rest, text) if rest else Text(text)}


def meant(plugin: str, enabled: Iterable[str]) -> str | None:
    """The plugin a table is for; a variable's name has '_' where a plugin's has '-'."""
    names = list(enabled)
    if plugin in names:
        return plugin
    return next((name for name in names if name.replace("-", "_") == plugin), None)


def stray_faults(given: Iterable[Given], enabled: Sequence[str]) -> list[str]:
    """The tables that are for no plugin that is enabled."""
    faults = []
    for each in given:
        if meant(each.plugin, enabled) is None:
            near = nearest(each.plugin, enabled)
            hint = f" (did you mean '{near}'?)" if near else ""
            faults.append(f"{each.origin}: {each.key}: no plugin of that name is enabled{hint}")
    return faults


def typed(kind: type[Struct], name: str, given: Sequence[Given]) -> Settings:
    """The settings of the plugin of this name from all layers, the first one first."""
    faults: list[str] = []
    merged: dict[str, Any] = {}
    for each in given:
        _take(kind, each.table, merged, _Place(f"{each.origin}: {each.key}.", faults))
    if faults:
        return Settings(None, faults)
    where = f"{given[-1].origin}: {given[-1].key}" if given else f"plugins.{name}"
    missing = [f"{where}.{name}: a value is needed" for name in _missing(kind, merged)]
    if missing:
        return Settings(None, missing)
    try:
        return Settings(msgspec.convert(merged, kind), [])
    except (msgspec.ValidationError, ValueError) as exc:
        # What a plugin's own __post_init__ finds out.
        return Settings(None, [f"{where}: {exc}"])


class _Place(NamedTuple):
    prefix: str
    faults: list[str]


def _take(
    kind: type[Struct], table: Mapping[str, Any], into: dict[str, Any], place: _Place
) -> None:
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    for name, value in table.items():
        field = fields.get(name)
        if field is None:
            near = nearest(name, fields)
            hint = f" (did you mean '{near}'?)" if near else ""
            place.faults.append(f"{place.prefix}{name}: unknown key{hint}")
        elif (inner := _struct(field.type)) is not None and isinstance(value, Mapping):
            below = into.setdefault(name, {})
            _take(inner, value, below, _Place(f"{place.prefix}{name}.", place.faults))
        else:
            meaning, fault = _read(field.type, value)
            if fault is None:
                into[name] = meaning
            else:
                place.faults.append(f"{place.prefix}{name}: {fault}")


def _struct(kind: Any) -> type[Struct] | None:
    inner = _plain(kind)
    return inner if isinstance(inner, type) and issubclass(inner, Struct) else None


def _plain(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _read(kind: Any, value: Any) -> tuple[Any, str | None]:
    """What a value stands for, and what is wrong with it."""
    if (refused := token_fault(value)) is not None:
        return None, refused
    meaning = _of_text(kind, value) if isinstance(value, Text) else value
    metas = [meta for meta in typing.get_args(kind)[1:] if isinstance(meta, Meta)]
    try:
        converted = msgspec.convert(meaning, kind, strict=not isinstance(value, Text))
    except msgspec.ValidationError as exc:
        return None, f"{_expected(kind, metas, exc)}, got {shown(value)}"
    return converted, check_fault(converted, metas)


def _of_text(kind: Any, text: str) -> Any:
    plain = _plain(kind)
    if plain is bool:
        return {"true": True, "false": False}.get(text, str(text))
    if typing.get_origin(plain) in (list, tuple, dict):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return str(text)
    return str(text)


def _expected(kind: Any, metas: list[Meta], exc: msgspec.ValidationError) -> str:
    if title := next((meta.title for meta in metas if meta.title), None):
        return f"expected {title}"
    plain = _plain(kind)
    if typing.get_origin(plain) is Literal:
        return f"expected one of {', '.join(map(repr, typing.get_args(plain)))}"
    sentence = str(exc).partition(", got")[0].replace("`", "")
    return sentence[:1].lower() + sentence[1:]


def _missing(kind: type[Struct], table: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for field in msgspec.structs.fields(kind):
        name, inner = field.encode_name, _struct(field.type)
        if name in table:
            if inner is not None:
                found += _missing(inner, table[name], f"{prefix}{name}.")
        elif field.required:
            found.append(f"{prefix}{name}")
    return found


def masked(settings: Struct) -> dict[str, Any]:
    """Settings as they may be shown: a mask instead of each value nobody should see.

    Those are the fields whose name says so, and those with `Meta(extra={"secret": True})`.
    """
    shown_table: dict[str, Any] = {}
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        metas = [meta for meta in typing.get_args(field.type)[1:] if isinstance(meta, Meta)]
        is_marked = any((meta.extra or {}).get("secret") for meta in metas)
        if isinstance(value, Struct):
            shown_table[field.encode_name] = masked(value)
        elif (is_marked or is_secret(field.encode_name)) and value not in (None, "", ()):
            shown_table[field.encode_name] = MASK
        else:
            shown_table[field.encode_name] = _simple(value)
    return shown_table


def _simple(value: Any) -> Any:
    built: Callable[[Any], Any] = msgspec.to_builtins
    return built(value)
