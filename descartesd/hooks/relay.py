"""Calls the hooks of plugins; the only one that does, so that a fault names its plugin."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import pluggy

from descartesd.api import Action
from descartesd.errors import StartupRefusedError
from descartesd.hooks import hookspecs


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
        found: dict[str, Registered] = {}
        for implementation in self._plugins.hook.register_actions.get_hookimpls():
            plugin = implementation.plugin_name
            for action in _call(implementation):
                known = found.get(action.name)
                if known is not None:
                    raise StartupRefusedError(
                        f"plugin '{plugin}' registers the action '{action.name}', which plugin"
                        f" '{known.plugin}' has registered"
                    )
                found[action.name] = Registered(plugin, action)
        return found


def _call(implementation: pluggy.HookImpl) -> Iterable[Action]:
    """What a plugin registers; raises StartupRefusedError naming the plugin."""
    refused = f"plugin '{implementation.plugin_name}' cannot register its actions:"
    if inspect.iscoroutinefunction(implementation.function):
        raise StartupRefusedError(f"{refused} register_actions is a coroutine function")
    try:
        registered: Any = implementation.function()
        actions = list(registered)
    except Exception as exc:
        raise StartupRefusedError(f"{refused} {type(exc).__name__}: {exc}") from exc
    for action in actions:
        if not isinstance(action, Action):
            raise StartupRefusedError(f"{refused} {type(action).__name__} is no Action")
    return actions
