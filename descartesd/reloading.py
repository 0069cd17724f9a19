"""Part of the composition root: takes over a changed configuration while the server runs."""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from msgspec.structs import replace

from descartesd.agents.backend import Backends
from descartesd.agents.expiry import Expiry
from descartesd.agents.fleet import Fleet
from descartesd.agents.spec import RunnerDefaults
from descartesd.agents.starting import FleetOptions
from descartesd.config.leaves import leaves
from descartesd.config.load import Loaded
from descartesd.config.plugin import meant
from descartesd.config.role import Quotas
from descartesd.config.schema import Config
from descartesd.errors import DescartesError, InvalidArgumentError, StartupRefusedError
from descartesd.hooks.relay import Relay
from descartesd.hooks.reload import Changed, take_over
from descartesd.hooks.reload import changed as changed_plugins
from descartesd.identities import Identities
from descartesd.methods.call import Call, Handler
from descartesd.observe.logs import set_level
from descartesd.plugins import Contributions, configured_backends
from descartesd.systemd.notify import Notifier
from descartesd.wire.server import Empty, Reloaded

log = logging.getLogger(__name__)

# What one setting, or all settings of a section, need: the work that has them hold.
# It is prepared before anything is changed, and may raise only then.
Prepare = Callable[[Loaded], Callable[[], None]]


class Reloading:
    """Reads the configuration again, all of it or nothing.

    `live` says by setting or section what can be taken over; everything else waits for a restart.
    """

    def __init__(
        self,
        loaded: Loaded,
        load: Callable[[], Loaded],
        live: Mapping[str, Prepare],
        relay: Relay,
        notifier: Notifier,
    ) -> None:
        self._config = loaded.config
        self._relay = relay
        self._load = load
        self._live = live
        self._lock = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._notifier = notifier
        # Why the last one was refused.
        self.problem: str | None = None

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"server.reload": self._reload}

    async def _reload(self, _call: Call, _params: Empty) -> Reloaded:
        return await self.reload()

    def ask(self) -> None:
        """Reload soon; asked for many times meanwhile, once more is enough."""
        self._wanted.set()

    async def run(self) -> None:
        """Reload whenever asked to; until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.reload()
            except DescartesError:
                # It is logged, and stands in the status: nobody waits for an answer.
                continue

    async def reload(self) -> Reloaded:
        """Take over what has changed. Raises InvalidArgumentError, and then nothing is changed."""
        async with self._lock:
            self._notifier.reloading()
            try:
                found = await self._take_over()
            except StartupRefusedError as exc:
                self.problem = exc.message
                log.error("config.refused", extra={"cause": exc.message})  # noqa: TRY400  # a sentence
                raise InvalidArgumentError(
                    exc.message,
                    hint="nothing was changed; try it first with: descartesd --check-config",
                    details=exc.details,
                ) from exc
            finally:
                self._notifier.reloaded()
        self.problem = None
        log.warning("config.reloaded", extra={"changed": found.changed, "restart": found.restart})
        return found

    async def _take_over(self) -> Reloaded:
        # It takes a tenth of a second, in which others are served.
        loaded = await asyncio.to_thread(self._load)
        differing = [key for key in leaves() if _at(self._config, key) != _at(loaded.config, key)]
        changed = [key for key in differing if self._unit(key) is not None]
        units = dict.fromkeys(unit for key in changed if (unit := self._unit(key)) is not None)
        commits = [self._live[unit](loaded) for unit in units]
        plugins = await self._give_plugins(loaded)
        for commit in commits:
            commit()
        for key in changed:
            self._config = _with(self._config, key.split("."), _at(loaded.config, key))
        restart = [key for key in differing if key not in changed]
        changed += [f"plugins.{name}" for name in plugins.settings]
        return Reloaded(changed=changed, restart=[*restart, *plugins.restart])

    async def _give_plugins(self, loaded: Loaded) -> Changed:
        """Have those plugins take over their settings that can."""
        enabled = self._config.plugins.enabled
        still = [name for name in enabled if name in loaded.config.plugins.enabled]
        records = {name: self._relay.records[name] for name in still}
        given = [each for each in loaded.plugins if meant(each.plugin, enabled) is not None]
        plugins = changed_plugins(records, given)
        await take_over(records, plugins.settings, self._config.plugins.hook_timeout_s)
        return plugins

    def _unit(self, key: str) -> str | None:
        """The setting or section by which this one is taken over."""
        section = key.partition(".")[0]
        return next((name for name in (key, section) if name in self._live), None)


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _with(section: Any, names: list[str], value: Any) -> Any:
    first, *rest = names
    return replace(
        section, **{first: _with(getattr(section, first), rest, value) if rest else value}
    )


def fleet_options(
    config: Config,
    account: pwd.struct_passwd,
    backends: Backends,
    quotas_of: Callable[[str], Quotas],
) -> FleetOptions:
    """How agents are started, as it is configured."""
    runner = RunnerDefaults(
        working_dir=config.server.runner.working_dir or None,
        path=config.server.runner.path,
        output_bytes=config.limits.max_output_buffer_bytes,
        account=account,
        backends=backends,
    )
    return FleetOptions(config.server.max_agents, runner, config.limits.max_queued, quotas_of)


class Takers(NamedTuple):
    """The parts that take over a setting while they work."""

    fleet: Fleet
    expiry: Expiry
    identities: Identities
    contributed: Contributions
    account: pwd.struct_passwd

    def live(self) -> Mapping[str, Prepare]:
        """What each setting that needs no restart needs instead."""
        return {
            "server.max_agents": self._fleet,
            "server.runner.working_dir": self._fleet,
            "server.runner.path": self._fleet,
            "limits": self._fleet,
            "backends": self._fleet,
            "policy": lambda new: partial(self.identities.reconfigure, new.config.policy),
            "monitoring.log_level": lambda new: partial(set_level, new.config.monitoring.log_level),
        }

    def _fleet(self, new: Loaded) -> Callable[[], None]:
        options = fleet_options(
            new.config,
            self.account,
            configured_backends(self.contributed, new),
            self.identities.policy.quotas_of,
        )

        def commit() -> None:
            self.fleet.starts.reconfigure(options)
            self.expiry.keep_s = new.config.limits.keep_ended_secs
            # There may be room for more of those that wait.
            self.fleet.turns.look()

        return commit
