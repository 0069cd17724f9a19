"""What plugins contribute is collected by name, and a fault names its plugin."""

from __future__ import annotations

from typing import Any

import pytest

from descartesd.api import Backend, hookimpl
from descartesd.config.backend import Backend as Settings
from descartesd.config.load import Loaded
from descartesd.config.schema import Config
from descartesd.errors import StartupRefusedError
from descartesd.hooks.relay import Relay
from descartesd.plugins import contributions

MINE = Backend(name="mine", start=("mine", "--", "{task}"))


class Plugin:
    """Registers what it was made with."""

    def __init__(self, *registered: Any) -> None:
        self._registered = registered

    @hookimpl
    def register_backends(self) -> Any:
        return self._registered


def backends(*plugins: Plugin) -> dict[str, Backend]:
    relay = Relay()
    for number, plugin in enumerate(plugins):
        relay.register(plugin, f"plugin-{number}")
    return relay.register_backends()


def test_every_server_has_the_built_in_backends_and_the_configured_ones() -> None:
    found = contributions(
        Loaded(Config(backends={"mine": Settings(command=("mine",))}), "d.toml", [])
    )

    names = ["claude", "claude-code-cli", "codex", "gemini", "mine", "opencode"]
    assert list(found.backends) == names
    assert "echo" in found.actions


def test_backends_are_collected_from_every_plugin() -> None:
    other = Backend(name="other", start=("other",))

    assert backends(Plugin(MINE), Plugin(other)) == {"mine": MINE, "other": other}


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(StartupRefusedError, match="plugin 'plugin-1' registers the backend 'mine'"):
        backends(Plugin(MINE), Plugin(MINE))


def test_what_is_no_backend_is_refused() -> None:
    with pytest.raises(StartupRefusedError, match="'plugin-0' cannot register its backends: str"):
        backends(Plugin("mine"))
