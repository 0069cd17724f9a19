"""Loads one plugin without a server, and tells of each of its hooks whether it fits."""

from __future__ import annotations

import os
from typing import Any

from descartesd.config.load import load
from descartesd.config.plugin import Given, meant, typed
from descartesd.errors import StartupRefusedError
from descartesd.hooks.checks import Hook, hooks_of
from descartesd.hooks.load import import_plugin, make, settings_type
from descartesd.hooks.relay import Relay

_CONTRIBUTIONS = (
    "register_actions",
    "register_backends",
    "register_metrics",
    "register_exporters",
)


class Trial:
    """What was found out about a plugin; `checks` are its hooks and the steps before them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checks: list[Hook] = []

    @property
    def fits(self) -> bool:
        """Whether a server would take it."""
        return all(check.fault is None for check in self.checks)

    def report(self) -> dict[str, Any]:
        """As it is told in JSON."""
        return {
            "plugin": self.name,
            "ok": self.fits,
            "checks": [
                {"name": check.name, "ok": check.fault is None, "fault": check.fault,
                 "hint": check.hint}
                for check in self.checks
            ],
        }  # fmt: skip


def try_out(name: str, config: str | None) -> Trial:
    """Load the plugin of this name, with its settings in the file `config` if one is given.

    Raises StartupRefusedError when that file itself does not fit.
    """
    given: list[Given] = []
    if config is not None:
        loaded = load(config, environ=os.environ)
        given = [each for each in loaded.plugins if meant(each.plugin, [name]) == name]
    trial = Trial(name)
    try:
        plugin = _made(trial, name, given)
    except StartupRefusedError as exc:
        trial.checks.append(Hook("load", exc.message, exc.hint))
        return trial
    trial.checks += hooks_of(plugin)
    if trial.fits:
        _contribute(trial, plugin)
    return trial


def _made(trial: Trial, name: str, given: list[Given]) -> object:
    target, _ = import_plugin(name)
    trial.checks.append(Hook("import"))
    kind = settings_type(name, target)
    settings = None
    if kind is not None:
        found = typed(kind, name, given)
        settings = found.value
        if found.faults:
            hint = "give a file that has them: --config FILE"
            raise StartupRefusedError("; ".join(found.faults), hint=hint)
        trial.checks.append(Hook("settings"))
    return make(name, target, settings)


def _contribute(trial: Trial, plugin: object) -> None:
    """Call what adds something, as a server does at its start."""
    relay = Relay()
    relay.register(plugin, trial.name)
    for number, check in enumerate(trial.checks):
        if check.name in _CONTRIBUTIONS:
            try:
                getattr(relay, check.name)()
            except StartupRefusedError as exc:
                trial.checks[number] = Hook(check.name, exc.message, exc.hint)
