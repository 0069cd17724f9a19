"""Loads the plugins the configuration names, from the packages that are installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from msgspec import Struct

from descartesd.config.plugin import Given, meant, typed
from descartesd.errors import StartupRefusedError
from descartesd.hooks.checks import api_fault
from descartesd.hooks.record import Origin, named
from descartesd.wire.codec import nearest

GROUP = "descartesd"


class Loaded(NamedTuple):
    """A plugin that has been made, with its settings."""

    name: str
    plugin: object
    origin: Origin


def load(enabled: Sequence[str], given: Sequence[Given]) -> list[Loaded]:
    """Import and make every plugin that is enabled; nothing else that is installed is touched.

    Raises StartupRefusedError naming the plugin and the remedy, or every fault of their settings.
    """
    if not enabled:
        return []
    installed = _installed()
    targets = {name: import_plugin(name, installed) for name in enabled}
    if len(targets) != len(enabled):
        twice = next(name for name in enabled if enabled.count(name) > 1)
        raise StartupRefusedError(f"plugins.enabled: '{twice}' is in it more than once")
    kinds = {name: settings_type(name, target) for name, (target, _) in targets.items()}
    settings = _settings(kinds, given)
    return [
        Loaded(name, make(name, target, settings[name]), _origin(point, settings[name]))
        for name, (target, point) in targets.items()
    ]


def _installed() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def import_plugin(
    name: str, installed: Mapping[str, list[metadata.EntryPoint]] | None = None
) -> tuple[Any, metadata.EntryPoint]:
    """What a plugin's entry point names, imported. Raises StartupRefusedError."""
    known = _installed() if installed is None else installed
    point = _only(name, known)
    try:
        target = point.load()
    except (Exception, SystemExit) as exc:
        raise StartupRefusedError(
            f"plugin '{name}' cannot be imported ('{point.value}'): {named(exc)}",
            hint=f"mend or upgrade {_distribution(point)}, or take '{name}' out of plugins.enabled",
        ) from exc
    if (fault := api_fault(target)) is not None:
        raise StartupRefusedError(
            f"plugin '{name}' does not fit this server: {fault}",
            hint=f"install a version of {_distribution(point)} that does",
        )
    return target, point


def _only(name: str, installed: Mapping[str, list[metadata.EntryPoint]]) -> metadata.EntryPoint:
    points = installed.get(name, [])
    if len(points) == 1:
        return points[0]
    if points:
        packages = " and ".join(sorted(map(_distribution, points)))
        raise StartupRefusedError(
            f"plugin '{name}' is registered more than once, by {packages}",
            hint="uninstall all but one of them",
        )
    near = nearest(name, installed)
    install = f"install it beside the server: pip install descartesd-{name}"
    raise StartupRefusedError(
        f"plugin '{name}' is not installed",
        hint=f"did you mean '{near}'? Otherwise {install}" if near else install,
    )


def settings_type(name: str, target: Any) -> type[Struct] | None:
    """What the settings of a plugin are, None where it has none. Raises StartupRefusedError."""
    kind = getattr(target, "Config", None)
    if kind is None:
        return None
    if not (inspect.isclass(kind) and issubclass(kind, Struct)):
        raise StartupRefusedError(f"plugin '{name}': its Config is no msgspec.Struct")
    if not inspect.isclass(target):
        raise StartupRefusedError(
            f"plugin '{name}' has settings, and its entry point names no class to give them to",
            hint="name the class that has Config in it, and takes one when it is made",
        )
    return kind


def _settings(
    kinds: Mapping[str, type[Struct] | None], given: Sequence[Given]
) -> dict[str, Struct | None]:
    faults: list[str] = []
    found: dict[str, Struct | None] = {}
    for name, kind in kinds.items():
        own = [each for each in given if meant(each.plugin, kinds) == name]
        if kind is None:
            faults += [f"{each.origin}: {each.key}: the plugin has no settings" for each in own]
            found[name] = None
            continue
        settings = typed(kind, name, own)
        faults += settings.faults
        found[name] = settings.value
    if faults:
        raise StartupRefusedError("\n".join(faults), details={"faults": faults})
    return found


def make(name: str, target: Any, settings: Struct | None) -> object:
    """The plugin itself: a class is made, with its settings where it has any."""
    if not inspect.isclass(target):
        return target
    make_it: Callable[..., object] = target
    try:
        return make_it() if settings is None else make_it(settings)
    except (Exception, SystemExit) as exc:
        raise StartupRefusedError(
            f"plugin '{name}' cannot be made: {named(exc)}",
            hint=f"look at [plugins.{name}], or try it with: descartesctl plugin check {name}",
        ) from exc


def _origin(point: metadata.EntryPoint, settings: Struct | None) -> Origin:
    version = "" if point.dist is None else point.dist.version
    return Origin(_distribution(point), version, settings)


def _distribution(point: metadata.EntryPoint) -> str:
    return "a package without a name" if point.dist is None else point.dist.name
