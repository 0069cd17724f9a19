"""What is wrong with roles that no type can tell: unknown names, and built-in ones changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from descartesd.config.layers import Layer
from descartesd.wire.codec import nearest
from descartesd.wire.methods import METHODS, ROLES

_ROLES = "policy.roles"
_USERS = ("policy.local_uids", "policy.local_groups")
_ADMIN = ROLES[-1]


def role_faults(layers: Iterable[Layer]) -> list[str]:
    """Every fault of every layer, each with its origin and key."""
    layers = list(layers)
    found = [fault for layer in layers for fault in _of_layer(layer)]
    if not any(f": {_ROLES}" in fault for layer in layers for fault in layer.faults):
        # A role that was refused for a fault of its own is no unknown one.
        found += _undefined(layers)
    return found


def _of_layer(layer: Layer) -> Iterator[str]:
    for name, settings in layer.values.get(_ROLES, {}).items():
        key = f"{layer.origin}: {_ROLES}.{name}"
        if name in ROLES:
            yield from _of_builtin(key, name, settings)
        for setting in ("methods", "deny"):
            for pattern in settings.get(setting, ()):
                if not any(fnmatchcase(method, pattern) for method in METHODS):
                    near = nearest(pattern, METHODS)
                    meant = f" (did you mean '{near}'?)" if near else ""
                    yield f"{key}.{setting}: no method is '{pattern}'{meant}"


def _of_builtin(key: str, name: str, settings: dict[str, Any]) -> Iterator[str]:
    for setting in settings.keys() - {"quotas", "deny"}:
        yield (
            f"{key}.{setting}: '{name}' is a built-in role, of which only quotas and deny may be"
            " set; define a role of another name"
        )
    if name == _ADMIN and "quotas" in settings:
        yield (
            f"{key}.quotas: administrators are never limited, so that a flood cannot lock them out"
        )


def _undefined(layers: list[Layer]) -> Iterator[str]:
    defined = [*ROLES, *{name: 0 for layer in layers for name in layer.values.get(_ROLES, {})}]
    known = ", ".join(dict.fromkeys(defined))
    for layer in layers:
        for table in _USERS:
            for user, role in layer.values.get(table, {}).items():
                if role not in defined:
                    yield f"{layer.origin}: {table}.{user}: no role '{role}', there are {known}"
