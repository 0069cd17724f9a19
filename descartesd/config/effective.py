"""What a configuration comes to: each setting, its value, and which layer has decided it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from descartesd.config.layers import Layer
from descartesd.config.load import Loaded
from descartesd.config.plugin import meant
from descartesd.config.toml_text import toml_key
from descartesd.wire.masking import MASK, is_secret

DEFAULT = "default"

_Path = tuple[str, ...]


class Setting(NamedTuple):
    """One setting by its dotted key, as TOML writes it.

    `origin` is a file, an environment variable or `default`; a value nobody should see is masked.
    """

    key: str
    value: Any
    origin: str


def settings(loaded: Loaded) -> list[Setting]:
    """Every setting in the order of the schema, then those of the plugins."""
    origins = {
        (*key.split("."), *path): _origin(layer)
        for layer in loaded.layers
        for key, value in layer.values.items()
        for path, _ in _flat(value)
    }
    found = [
        Setting(toml_key(path), _shown(path, value), origins.get(path, DEFAULT))
        for path, value in _flat(msgspec.to_builtins(loaded.config))
    ]
    return found + list(_of_plugins(loaded))


def _origin(layer: Layer) -> str:
    return f"{layer.origin} [{layer.section}]" if layer.section else layer.origin


def _of_plugins(loaded: Loaded) -> Iterator[Setting]:
    """What stands there for them; their defaults are their own."""
    last = {
        ("plugins", meant(given.plugin, loaded.config.plugins.enabled) or given.plugin, *path): (
            *(value, given.origin),
        )
        for given in loaded.plugins
        for path, value in _flat(given.table)
    }
    for path, (value, origin) in last.items():
        yield Setting(toml_key(path), MASK if any(map(is_secret, path[2:])) else value, origin)


def _flat(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Each value below a table, and the way there; a table without any is none."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flat(each, (*path, name))
    else:
        yield path, value


def _shown(path: _Path, value: Any) -> Any:
    # Among the variables a backend is given may be keys, whatever their names.
    is_variable = path[0] == "backends" and path[2] == "env"
    return MASK if is_variable else value
