"""Where settings come from: each layer as dotted keys and values, with its faults.

A value that does not fit is a fault of its layer, named with its origin, and is left out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from descartesd.config.leaves import Leaf, leaves, shown, unknown
from descartesd.config.plugin import Given, text_table

PREFIX = "DESCARTES_"
CONFIG_FILE = "DESCARTES_CONFIG_FILE"
ENVIRONMENT = "DESCARTES_ENV"
DEFAULT_ENVIRONMENT = "production"

# Names older installations use.
ALIASES = {
    "DESCARTES_SERVER_ENDPOINT": "server.endpoint",
    "DESCARTES_MAX_AGENTS": "server.max_agents",
    "DESCARTES_LOG_LEVEL": "monitoring.log_level",
}
# Keys that may stand in [environments.NAME] without their section.
FLAT_KEYS = {
    "max_agents": "server.max_agents",
    "request_timeout_secs": "server.request_timeout_secs",
    "log_level": "monitoring.log_level",
}

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# As TOML writes them.
_BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(slots=True)
class Layer:
    """One source of settings. A table of free names is one value, a dict."""

    origin: str
    values: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    known: dict[str, Leaf] = field(default_factory=leaves)
    # What stands before its keys where a fault names one.
    prefix: str = ""
    # The tables of plugins, which nobody has loaded yet.
    plugins: list[Given] = field(default_factory=list)
    # The part of its origin it is, where that has several.
    section: str = ""

    def take(self, key: str, value: Any, *, named: str | None = None) -> None:
        """Take one setting, or note what is wrong with it; `named` is its key as written."""
        leaf = self.known[key]
        if leaf.is_table and isinstance(value, dict):
            for name, entry in value.items():
                self.take_entry(key, name, entry, named=named)
        elif (fault := leaf.fault(value)) is not None:
            self.refuse(named or key, fault)
        else:
            self.values[key] = value

    def take_entry(self, key: str, name: str, value: Any, *, named: str | None = None) -> None:
        """Take one entry of a table of free names."""
        leaf = self.known[key]
        if leaf.entry is not None and isinstance(value, dict) and leaf.name_fault(name) is None:
            within = self.within(f"{named or key}.{name}", leaf.entry)
            _take_table(within, value)
            self.take_settings(key, name, within)
        elif (fault := leaf.entry_fault(name, value)) is not None:
            self.refuse(f"{named or key}.{name}", fault)
        else:
            self.values.setdefault(key, {})[name] = value

    def within(self, key: str, kind: type[Struct]) -> Layer:
        """An empty layer for the settings of one entry."""
        return Layer(self.origin, known=leaves(kind), prefix=f"{self.prefix}{key}.")

    def take_settings(self, key: str, name: str, settings: Layer) -> None:
        """Take an entry whose settings have been taken by a layer of its own."""
        self.faults += settings.faults
        if not settings.faults:
            self.values.setdefault(key, {})[name] = _nested(settings.values)

    def refuse(self, key: str, fault: str) -> None:
        """Note a fault."""
        self.faults.append(f"{self.origin}: {self.prefix}{key}: {fault}")


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key as tables in tables."""
    table: dict[str, Any] = {}
    for key, value in settings.items():
        *path, name = key.split(".")
        within = table
        for part in path:
            within = within.setdefault(part, {})
        within[name] = value
    return table


def file_layers(table: Mapping[str, Any], origin: str, environment: str) -> list[Layer]:
    """The file's settings, then those of the chosen environment; every environment is checked."""
    base = Layer(origin)
    environments = table.get("environments", {})
    settings = {name: each for name, each in table.items() if name != "environments"}
    _take_table(base, settings, also={"environments"})
    if not isinstance(environments, dict):
        base.refuse("environments", f"expected a table, got {shown(environments)}")
        return [base]
    chosen = [base]
    for name, overrides in environments.items():
        layer = Layer(origin, section=f"environments.{name}")
        if isinstance(overrides, dict):
            _take_environment(layer, overrides, f"environments.{name}.")
        else:
            layer.refuse(f"environments.{name}", f"expected a table, got {shown(overrides)}")
        if name == environment:
            chosen.append(layer)
        else:
            base.faults.extend(layer.faults)
    return chosen


def environ_layers(environ: Mapping[str, str]) -> list[Layer]:
    """The settings of environment variables, one layer each; other variables are left alone."""
    aliases = [
        _text_layer(name, key.split("."), environ[name])
        for name, key in ALIASES.items()
        if name in environ
    ]
    sections = [
        _text_layer(name, name.removeprefix(PREFIX).split("__"), text)
        for name, text in sorted(environ.items())
        if name.startswith(PREFIX) and "__" in name.removeprefix(PREFIX)
    ]
    return aliases + sections


def flag_layers(flags: Mapping[str, str]) -> list[Layer]:
    """The settings of the command line, by dotted key."""
    return [_text_layer("command line", key.split("."), text) for key, text in flags.items()]


def _text_layer(origin: str, parts: list[str], text: str) -> Layer:
    return _with_text(Layer(origin), parts, text)


def _with_text(layer: Layer, parts: list[str], text: str) -> Layer:
    key = ".".join(parts).lower()
    for depth in range(1, len(parts)):
        section = ".".join(parts[:depth]).lower()
        if section in layer.known and layer.known[section].is_table:
            _take_text_entry(layer, section, parts[depth:], text)
            return layer
    if key in layer.known:
        layer.take(key, _typed(text, layer.known[key]))
    elif len(parts) > 2 and parts[0].lower() == "plugins" and not layer.prefix:
        name = parts[1].lower()
        given = Given(layer.origin, f"plugins.{name}", name, text_table(parts[2:], text))
        layer.plugins.append(given)
    else:
        layer.refuse(key, unknown(key, set(layer.known), layer.known))
    return layer


def _take_text_entry(layer: Layer, section: str, parts: list[str], text: str) -> None:
    leaf, name = layer.known[section], parts[0]
    if leaf.entry is None or len(parts) == 1 or leaf.name_fault(name) is not None:
        layer.take_entry(section, "__".join(parts), text)
        return
    within = layer.within(f"{section}.{name}", leaf.entry)
    layer.take_settings(section, name, _with_text(within, parts[1:], text))


def _typed(text: str, leaf: Leaf) -> Any:
    if leaf.base is int and _INTEGER.fullmatch(text):
        return int(text)
    if leaf.base is float and _NUMBER.fullmatch(text):
        return float(text)
    if leaf.base is bool and text in _BOOLEANS:
        return _BOOLEANS[text]
    if isinstance(leaf.default, tuple):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def _take_environment(layer: Layer, overrides: Mapping[str, Any], prefix: str) -> None:
    sections = {name: each for name, each in overrides.items() if name not in FLAT_KEYS}
    for name, key in FLAT_KEYS.items():
        if name in overrides:
            layer.take(key, overrides[name], named=f"{prefix}{name}")
    _take_table(layer, sections, named=prefix, also=set(FLAT_KEYS))


def _take_table(
    layer: Layer,
    table: Mapping[str, Any],
    *,
    path: str = "",
    named: str = "",
    also: AbstractSet[str] = frozenset(),
) -> None:
    below = [key.removeprefix(path) for key in layer.known if key.startswith(path)]
    siblings = {key.partition(".")[0] for key in below}
    for name, value in table.items():
        key = f"{path}{name}"
        if path == "plugins." and isinstance(value, dict) and name not in siblings:
            layer.plugins.append(Given(layer.origin, f"{named}{key}", name, value))
        elif name not in siblings:
            layer.refuse(f"{named}{key}", unknown(key, siblings | also, layer.known))
        elif key in layer.known:
            layer.take(key, value, named=f"{named}{key}")
        elif isinstance(value, dict):
            _take_table(layer, value, path=f"{key}.", named=named)
        else:
            layer.refuse(f"{named}{key}", f"expected a table, got {shown(value)}")
