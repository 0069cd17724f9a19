"""Calls the hooks of plugins; the only one that does, so that a fault names its plugin."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import pluggy

from descartesd.api import Action, Backend
from descartesd.errors import StartupRefusedError
from descartesd.hooks import hookspecs

_Named = TypeVar("_Named", Action, Backend)


class Registered(NamedTuple):
    """An action, and the plugin it comes from."""

    plugin: str
    action: Action


class Relay:
    """Keeps the plugins."""

    def __init__(self) -> None:
        self._plugins = pluggy.PluginManager("descartesd")
        self._plugins.add_hookspecs(hookspecs)

    def register(self, plugin: object, name: str) -> None:
        """Take in a plugin: a module or an object with hooks.

        Raises StartupRefusedError when it has a hook nobody calls, or one that takes what it is
        not given.
        """
        try:
            self._plugins.register(plugin, name)
            self._plugins.check_pending()
        except (ValueError, pluggy.PluginValidationError) as exc:
            # The sentences of pluggy go over several lines.
            cause = " ".join(str(exc).split())
            raise StartupRefusedError(
                f"plugin '{name}' does not fit: {cause}", hint="compare its hooks with hookspecs.py"
            ) from exc

    def actions(self) -> dict[str, Registered]:
        """Collect every plugin's actions by name; raises StartupRefusedError."""
        found = self._collected("register_actions", Action, "action")
        return {name: Registered(plugin, action) for name, (plugin, action) in found.items()}

    def backends(self) -> dict[str, Backend]:
        """Collect every plugin's backends by name; raises StartupRefusedError."""
        found = self._collected("register_backends", Backend, "backend")
        return {name: backend for name, (_, backend) in found.items()}

    def _collected(self, hook: str, kind: type[_Named], word: str) -> dict[str, tuple[str, _Named]]:
        found: dict[str, tuple[str, _Named]] = {}
        for implementation in getattr(self._plugins.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            for each in _call(implementation, kind, word):
                if each.name in found:
                    raise StartupRefusedError(
                        f"plugin '{plugin}' registers the {word} '{each.name}', which plugin"
                        f" '{found[each.name][0]}' has registered"
                    )
                found[each.name] = plugin, each
        return found


def _call(implementation: pluggy.HookImpl, kind: type[_Named], word: str) -> Iterable[_Named]:
    """What a plugin registers; raises StartupRefusedError naming the plugin."""
    hook = implementation.function
    refused = f"plugin '{implementation.plugin_name}' cannot register its {word}s:"
    if inspect.iscoroutinefunction(hook):
        raise StartupRefusedError(f"{refused} register_{word}s is a coroutine function")
    try:
        registered: Any = hook()
        contributed = list(registered)
    except Exception as exc:
        raise StartupRefusedError(f"{refused} {type(exc).__name__}: {exc}") from exc
    for each in contributed:
        if not isinstance(each, kind):
            raise StartupRefusedError(f"{refused} {type(each).__name__} is no {kind.__name__}")
    return contributed
