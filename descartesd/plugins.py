"""What plugins contribute: registers them with the relay and collects everything once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from descartesd.agents.backend import Backends, with_configured
from descartesd.builtin import actions, backends
from descartesd.config.schema import Config
from descartesd.hooks.relay import Registered, Relay


class Contributions(NamedTuple):
    """Actions by name, and all backends, those of the configuration among them."""

    actions: Mapping[str, Registered]
    backends: Backends


def contributions(config: Config, origin: str) -> Contributions:
    """Collect from every plugin, and the backends of the configuration, read from file `origin`.

    Raises StartupRefusedError naming the plugin or the setting that does not fit.
    """
    relay = Relay()
    relay.register(actions, "builtin")
    relay.register(backends, "builtin-backends")
    configured = with_configured(relay.backends().values(), config.backends, origin)
    return Contributions(relay.actions(), configured)
