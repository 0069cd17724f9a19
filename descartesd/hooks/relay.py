"""Calls the hooks of plugins; the only one that does, so that a fault harms its plugin alone.

Each hook has a method of its name and parameters here. A method nobody implements need not be
called at all: `has` tells so once, before the server serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import pluggy

from descartesd.api import (
    Action,
    AgentInfo,
    AgentSpec,
    Backend,
    Event,
    Exporter,
    Identity,
    KeyHolder,
    Metric,
    MetricFamily,
    ServerInfo,
    State,
)
from descartesd.errors import DescartesError, PermissionDeniedError, StartupRefusedError
from descartesd.hooks import hookspecs
from descartesd.hooks.checks import hooks_of
from descartesd.hooks.contributions import collected
from descartesd.hooks.facts import Teller, Worker
from descartesd.hooks.implementation import Implementation, PluginFault
from descartesd.hooks.record import Options, Origin, PluginRecord

_Named = TypeVar("_Named", Action, Backend, Metric, Exporter)

# Beyond its time, for a plugin to be cancelled and for the fault to be noted.
_MARGIN_S = 0.5


class Registered(NamedTuple):
    """An action, and the plugin it comes from."""

    plugin: str
    action: Action


class Relay:
    """Keeps the plugins, and tells and asks them."""

    def __init__(self, options: Options = Options()) -> None:  # noqa: B008  # it is immutable
        self._options = options
        self._manager = pluggy.PluginManager("descartesd")
        self._manager.add_hookspecs(hookspecs)
        self._implementations: dict[str, list[Implementation]] = {}
        self._workers: dict[str, Worker] = {}
        self._tellers: dict[str, Teller] = {}
        self._is_watched = False
        # By name, in the order they are asked in.
        self.records: dict[str, PluginRecord] = {}

    # -- who takes part

    def register(self, plugin: object, name: str, origin: Origin = Origin()) -> None:  # noqa: B008  # it is immutable
        """Take in a plugin: a module or an object with hooks.

        Raises StartupRefusedError when it has a hook nobody calls, or one that takes what it is
        not given, or when its name is taken.
        """
        for hook in hooks_of(plugin):
            if hook.fault is not None:
                raise StartupRefusedError(
                    f"plugin '{name}' does not fit: hook '{hook.name}': {hook.fault}",
                    hint=f"{hook.hint}; try it with: descartesctl plugin check {name}",
                )
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as exc:
            # The sentences of pluggy go over several lines.
            cause = " ".join(str(exc).split())
            raise StartupRefusedError(f"plugin '{name}' does not fit: {cause}") from exc
        record = self.records[name] = PluginRecord(name, plugin, self._options, origin=origin)
        self._workers[name] = Worker(record, self._options.hook_timeout_s)
        self._tellers[name] = Teller(record, self._options.hook_timeout_s)
        self._resolve(record)

    def _resolve(self, record: PluginRecord) -> None:
        """Look its implementations up; pluggy calls the last one registered first."""
        hooks = []
        for caller in self._manager.get_hookcallers(record.plugin) or ():
            hooks.append(caller.name)
            order = list(self.records)
            found = [each for each in caller.get_hookimpls() if each.plugin_name in order]
            # As configured, but for who is marked to be the first or the last.
            found.sort(
                key=lambda each: (each.trylast, not each.tryfirst, order.index(each.plugin_name))
            )
            self._implementations[caller.name] = [
                Implementation(self.records[each.plugin_name], caller.name, each.function)
                for each in found
            ]
        record.hooks = tuple(sorted(hooks))

    def has(self, hook: str) -> bool:
        """Whether any plugin implements it."""
        return hook in self._implementations

    @property
    def problem(self) -> str | None:
        """Which plugins are left out now, and why; None while all work."""
        left_out = [record for record in self.records.values() if record.state != "loaded"]
        if not left_out:
            return None
        return "; ".join(
            f"plugin '{record.name}' is {record.state}: {record.last_error}" for record in left_out
        )

    # -- contributions

    def register_actions(self) -> dict[str, Registered]:
        """Collect every plugin's actions by name; raises StartupRefusedError."""
        found = self._collect("register_actions", Action)
        return {name: Registered(plugin, action) for name, (plugin, action) in found.items()}

    def register_backends(self) -> dict[str, Backend]:
        """Collect every plugin's backends by name; raises StartupRefusedError."""
        found = self._collect("register_backends", Backend)
        return {name: backend for name, (_, backend) in found.items()}

    def register_metrics(self) -> dict[str, tuple[str, Metric]]:
        """Collect every plugin's metrics by name, with the plugin; raises StartupRefusedError."""
        return self._collect("register_metrics", Metric)

    def register_exporters(self) -> dict[str, tuple[str, Exporter]]:
        """Collect every plugin's exporters by name, with the plugin; raises StartupRefusedError."""
        return self._collect("register_exporters", Exporter)

    def _collect(self, hook: str, kind: type[_Named]) -> dict[str, tuple[str, _Named]]:
        implementations = self._implementations.get(hook, ())
        return collected(implementations, kind, self._options.hook_timeout_s)

    # -- facts

    def daemon_started(self, server: ServerInfo) -> None:
        """Tell every plugin, waiting for none."""
        self._tell("daemon_started", server=server)

    def daemon_stopping(self, server: ServerInfo) -> None:
        """Tell every plugin; `settled` waits for them."""
        self._tell("daemon_stopping", server=server)

    def agent_started(self, agent: AgentInfo) -> None:
        """Tell every plugin, waiting for none."""
        self._tell("agent_started", agent=agent)

    def agent_state_changed(self, agent: AgentInfo, previous: State) -> None:
        """Tell every plugin, waiting for none."""
        self._tell("agent_state_changed", agent=agent, previous=previous)

    def agent_event(self, event: Event) -> None:
        """Tell every plugin, waiting for none."""
        self._tell("agent_event", event=event)

    def agent_exited(self, agent: AgentInfo) -> None:
        """Tell every plugin, waiting for none."""
        self._tell("agent_exited", agent=agent)

    def metrics_collected(self, metrics: Sequence[MetricFamily]) -> None:
        """Tell every plugin, waiting for none."""
        self._tell("metrics_collected", metrics=metrics)

    def _tell(self, hook: str, **given: Any) -> None:
        for implementation in self._implementations.get(hook, ()):
            name = implementation.record.name
            if implementation.is_async:
                self._tellers[name].put((implementation, given))
            else:
                self._workers[name].put((implementation, given))
                self._watch()

    def _watch(self) -> None:
        """While plugins are busy, see to it that none takes longer than it may."""
        if not self._is_watched:
            self._is_watched = True
            asyncio.get_running_loop().call_later(self._options.hook_timeout_s / 4, self._look)

    def _look(self) -> None:
        self._is_watched = False
        for worker in self._workers.values():
            worker.look()
        if any(worker.is_busy for worker in self._workers.values()):
            self._watch()

    async def settled(self) -> None:
        """Wait until every plugin has been told everything, for as long as one call may take."""
        busy: list[Worker | Teller] = [*self._workers.values(), *self._tellers.values()]
        step_s = min(self._options.hook_timeout_s / 20, 0.02)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.hook_timeout_s + _MARGIN_S
        while any(each.is_busy for each in busy) and loop.time() < until:  # noqa: ASYNC110  # a thread has no event to set
            await asyncio.sleep(step_s)
        for worker in self._workers.values():
            worker.look()

    async def close(self) -> None:
        """Tell nothing more."""
        for teller in self._tellers.values():
            await teller.close()

    # -- questions

    async def authenticate_key(self, key: str, address: str) -> KeyHolder | None:
        """Who holds a key, as the first plugin that knows it says; None where it is refused."""
        given = {"key": key, "address": address}
        for implementation in self._implementations.get("authenticate_key", ()):
            if not implementation.record.may_be_called():
                return None
            try:
                holder = await implementation.ask(given, self._options.hook_timeout_s, KeyHolder)
            except (DescartesError, PluginFault):
                return None
            if holder is not None:
                return holder  # type: ignore[no-any-return]  # ask has looked at its type
        return None

    async def authorize_request(self, identity: Identity, method: str, target: str | None) -> None:
        """Ask every plugin whether a request may go on.

        Raises what a plugin refuses it with, PermissionDeniedError naming the plugin otherwise.
        """
        given = {"identity": identity, "method": method, "target": target}
        for implementation in self._implementations.get("authorize_request", ()):
            name = implementation.record.name
            if not implementation.record.may_be_called():
                raise _undecided(name, method, "it has failed too often")
            try:
                answer = await implementation.ask(given, self._options.hook_timeout_s, bool)
            except PluginFault as exc:
                raise _undecided(name, method, str(exc)) from exc
            if answer is False:
                raise PermissionDeniedError(
                    f"plugin '{name}' does not allow {method} to {identity.id}",
                    hint="ask an administrator",
                )

    async def agent_spawning(self, spec: AgentSpec, identity: Identity) -> AgentSpec:
        """The spec an agent is to be started with; raises what a plugin refuses it with."""
        for implementation in self._implementations.get("agent_spawning", ()):
            if not implementation.record.may_be_called():
                continue
            given = {"spec": spec, "identity": identity}
            try:
                answer = await implementation.ask(given, self._options.hook_timeout_s, AgentSpec)
            except PluginFault:
                continue
            if answer is not None:
                spec = answer
        return spec


def _undecided(plugin: str, method: str, fault: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"{method} is refused: plugin '{plugin}' has to allow it, and gave no answer: {fault}",
        hint="see what is wrong with it: descartesctl plugin list",
    )
