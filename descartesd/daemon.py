"""The composition root of descartesd: builds every part, starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from importlib import metadata

from descartesd.agents.accounts import account_of_agents
from descartesd.agents.book import Book
from descartesd.agents.expiry import Expiry
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.follow import Watches
from descartesd.agents.journal import Journal
from descartesd.agents.monitor import Monitor
from descartesd.agents.output import OutputFiles
from descartesd.agents.quarantine import open_registry
from descartesd.agents.sampler import Sampler
from descartesd.agents.talk import Talk
from descartesd.agents.use import Use
from descartesd.api import ServerInfo
from descartesd.config.load import Loaded
from descartesd.errors import StartupRefusedError
from descartesd.identities import Identities
from descartesd.keeping import Agreeing, Keeping
from descartesd.keys.secretfile import LateSecret
from descartesd.listening import listen
from descartesd.methods.action import ActionMethods
from descartesd.methods.agent import AgentMethods
from descartesd.methods.attach import AttachMethods
from descartesd.methods.audit import AuditMethods
from descartesd.methods.audited import Refusals, audited, open_log
from descartesd.methods.authorizing import authorizer
from descartesd.methods.batch import BatchMethods
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.event import EventMethods
from descartesd.methods.health import Health, Parts
from descartesd.methods.idempotency import Answers
from descartesd.methods.measuring import Measured, readings_of
from descartesd.methods.output import OutputMethods
from descartesd.methods.plugin import PluginMethods
from descartesd.methods.server import Reports, ServerFacts, ServerMethods
from descartesd.methods.spawning import spawning
from descartesd.methods.stats import Stats
from descartesd.methods.talk import TalkMethods
from descartesd.places import lock_state, refusing
from descartesd.plugins import Contributions, connect, exporting, stopping
from descartesd.reloading import Reloading, Takers, fleet_options
from descartesd.systemd.service import Service
from descartesd.systemd.status import sentence
from descartesd.systemd.telling import Telling
from descartesd.transport.context import Context, server_context
from descartesd.transport.listeners import Listener
from descartesd.transport.selfcheck import ask_own_socket
from descartesd.transport.selftest import refuse_unknown_key
from descartesd.transport.server import RouterServer
from descartesd.transport.zap import ZapHandler

log = logging.getLogger(__name__)

_TIDY_EVERY_S = 1.0
# Once every agent has ended, what waits for an end answers by itself.
_LAST_ANSWERS_S = 0.5
# What goes on without an agent, as an action does.
_LAST_WORK_S = 4.5


class Daemon:
    """One server. `run` returns after an orderly stop."""

    @refusing()
    def __init__(
        self,
        loaded: Loaded,
        contributed: Contributions,
        service: Service,
        load: Callable[[], Loaded],
    ) -> None:
        self._config = config = loaded.config
        server = config.server
        self._service = service
        self._lock = lock_state(server.state_dir)
        service.begins("reading the registry")
        self._registry, agents = open_registry(os.path.join(server.state_dir, "registry.sqlite"))
        self._who = Identities(config, self._registry, service.key_files(server))
        service.begins("reading the audit log")
        self._audit = open_log(config, self._who.sealing_key, self._registry)
        self._output_dir = output_dir = server.output_dir
        self._keeping = Keeping(server)
        self._link = self._keeping.link
        self._plugins = contributed
        self._book = Book(
            self._registry, Journal(self._registry), OutputFiles(output_dir), server.server_id
        )
        self._book.load(agents)
        self._facts = Facts(self._book, self._link)
        account = account_of_agents(server.runner.user)
        quotas_of = self._who.policy.quotas_of
        options = fleet_options(config, account, contributed.backends, quotas_of)
        self._fleet = Fleet(self._book, self._link, options)
        self._expiry = Expiry(self._book, self._fleet, config.limits.keep_ended_secs)
        self._answers = Answers(
            self._registry, LateSecret(os.path.join(server.state_dir, "digest.key"))
        )
        takers = Takers(self._fleet, self._expiry, self._who, contributed, account)
        self._reloading = Reloading(
            loaded, load, takers.live(), contributed.relay, service.notifier
        )
        self._stopping = asyncio.Event()

    # -- life

    async def run(self) -> None:
        """Serve until told to stop; raises StartupRefusedError when it may not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        # In the foreground a terminal that is closed: only a crash leaves agents behind.
        hang_up = self._reloading.ask if self._service.is_managed else self._stopping.set
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        with contextlib.ExitStack() as parts:
            parts.callback(self._registry.close)
            parts.callback(self._audit.close)
            parts.callback(self._link.close)
            try:
                await self._serve(loop, parts)
            except ExceptionGroup as failures:
                refused, _ = failures.split(StartupRefusedError)
                if refused is not None:
                    raise refused.exceptions[0] from None
                raise
        log.info("server.stopped")

    def _told_to_stop(self) -> None:
        self._stopping.set()
        self._keeping.hurry()

    async def _serve(self, loop: asyncio.AbstractEventLoop, parts: contextlib.ExitStack) -> None:
        context = server_context()
        parts.callback(context.term)
        zap = ZapHandler(context, self._who.policy.authenticate)
        parts.callback(zap.close)
        zap.start(loop)
        watches = Watches(loop, self._output_dir)
        parts.callback(watches.close)
        monitor = Monitor(self._book, watches, self._fleet.pause)
        self._facts.hear_out = monitor.hear_out
        talk = Talk(self._book, self._fleet, self._link, monitor)
        listeners = listen(self._config.server, self._who.publish_host_key, self._service, parts)
        self._health = self._health_of(listeners)
        most = self._config.network.max_message_size
        dispatcher = Dispatcher(
            self._who.policy,
            self._answers,
            request_timeout_s=float(self._config.server.request_timeout_secs),
            max_message_bytes=most,
        )
        connect(self._plugins.relay, self._book, loop)
        agreeing = Agreeing(self._book, self._facts, self._fleet, self._answers, self._audit, most)
        self._keeping.agree_with(agreeing, self._health)
        await self._keeping.begin(self._service)
        router = RouterServer(
            context,
            self._who.router_options(self._config.network),
            on_request=dispatcher.on_request,
            on_disconnected=dispatcher.on_disconnected,
            on_shed=dispatcher.on_shed,
            unread=dispatcher.unread,
        )
        parts.callback(router.close)
        self._register(dispatcher, router, zap, watches, talk)
        telling = self._telling(context, listeners[-1].endpoint, router)
        async with asyncio.TaskGroup() as group:
            dispatcher.start(group, router.send)
            router.start(loop, listeners)
            self._who.rekey = router.rekey
            await self._test(context, listeners, router)
            # Not before: the stranger until now was ourselves.
            refusals = Refusals(self._audit, self._who.policy)
            parts.callback(refusals.listen(dispatcher, zap))
            # To the very end: what an agent has said decides how it ended.
            listening = group.create_task(monitor.run(), name="listening")
            minding = self._mind(group, dispatcher, telling)
            about = await self._until_told_to_stop(telling)
            for task in minding:
                task.cancel()
            async with telling.stopping(self._grace_s(), partial(self._left, dispatcher)):
                await stopping(self._plugins.relay, about)
                await self._end(dispatcher, router)
                await self._exporting.stop()
                await self._plugins.relay.close()
            listening.cancel()

    def _grace_s(self) -> float:
        """How long agents may take to end by themselves; those of a service do not end now."""
        return self._book.roster.longest_grace_s() if self._keeping.is_own else 0.0

    def _left(self, dispatcher: Dispatcher) -> tuple[int, int]:
        """What a stop has to bring to its end yet: agents and requests."""
        return (self._book.alive if self._keeping.is_own else 0), dispatcher.open_requests

    async def _end(self, dispatcher: Dispatcher, router: RouterServer) -> None:
        """Bring to its end what has begun; where the keeper goes on, so do the clients."""
        goes_on = not self._keeping.is_own
        if goes_on:
            router.hold()
        else:
            dispatcher.refuse_changes()
        await self._keeping.end()
        answers_s = 0.0 if goes_on else _LAST_ANSWERS_S
        await dispatcher.finish(work_s=_LAST_WORK_S, answers_s=answers_s)
        dispatcher.stop(silently=goes_on)

    async def _test(
        self, context: Context, listeners: list[Listener], router: RouterServer
    ) -> None:
        """See that it serves whom it should, and nobody else."""
        await refuse_unknown_key(
            context, listeners[0].endpoint, self._who.host_key.public_text.encode()
        )
        self._health.refuses_strangers = True
        self._health.look(lag_s=0.0)
        router.tell_failures()

    def _health_of(self, listeners: list[Listener]) -> Health:
        return Health(
            Parts(
                book=self._book,
                facts=self._facts,
                fleet=self._fleet,
                keeper=self._link,
                upgrade=self._keeping.upgrade,
                policy=self._who.policy,
                audit=self._audit,
                directories=[
                    self._config.server.state_dir,
                    # Of a keeper of its own only that one writes there.
                    *([self._output_dir] if self._keeping.is_own else []),
                ],
                listeners=listeners,
                plugins=self._plugins.relay,
            ),
            server_id=self._config.server.server_id,
            version=version(),
        )

    def _telling(self, context: Context, unix: str, router: RouterServer) -> Telling:
        def now() -> str:
            refused = self._reloading.problem
            return sentence(self._health.report(), len(router.traffic.clients), refused)

        async def ask() -> None:
            await ask_own_socket(context, unix, self._who.host_key.public_text.encode())

        return Telling(self._service, now, ask)

    def _mind(
        self, group: asyncio.TaskGroup, dispatcher: Dispatcher, telling: Telling
    ) -> list[asyncio.Task[None]]:
        """Look after what has to be looked after until the stop."""
        return [
            group.create_task(self._keeping.mind(), name="keeper guard"),
            group.create_task(self._keeping.upgrade.run(), name="keeper upgrade"),
            group.create_task(self._tidy(dispatcher), name="tidying"),
            group.create_task(self._sampler().run(), name="sampling"),
            group.create_task(self._fleet.turns.run(), name="turns"),
            group.create_task(telling.run(), name="telling systemd"),
            group.create_task(self._reloading.run(), name="reloading"),
        ]

    async def _until_told_to_stop(self, telling: Telling) -> ServerInfo:
        """Say that the server serves, and what it is, once it is to stop."""
        about = ServerInfo(
            server_id=self._config.server.server_id,
            version=version(),
            endpoints=tuple(self._health.endpoints),
        )
        self._book.journal.record("server_started", data={"version": about.version})
        log.info("server.ready", extra={"listeners": about.endpoints, "pid": os.getpid()})
        self._plugins.relay.daemon_started(about)
        telling.ready()
        self._exporting.start()
        await self._stopping.wait()
        log.info("server.stopping")
        self._book.journal.record("server_stopping")
        return about

    def _sampler(self) -> Sampler:
        server = self._config.server
        every_s = float(server.status_update_interval_secs)
        return Sampler(
            self._book,
            self._output_dir,
            Use(self._book, self._link),
            updates_every_s=every_s if server.enable_status_updates else None,
        )

    def _register(
        self,
        dispatcher: Dispatcher,
        router: RouterServer,
        zap: ZapHandler,
        watches: Watches,
        talk: Talk,
    ) -> None:
        config = self._config
        about = ServerFacts(
            server_id=config.server.server_id,
            version=version(),
            max_request_bytes=config.network.max_request_bytes,
            max_message_bytes=config.network.max_message_size,
        )
        stats = Stats(config.server.server_id, self._book, self._fleet, dispatcher, router.traffic)
        notifier = self._service.notifier
        parts = (self._health, dispatcher, router, zap, self._who.trust)
        measured = Measured(config, version(), *parts, lambda: notifier.watchdog_at)
        self._exporting = exporting(self._plugins, readings_of(measured))
        reports = Reports(self._health.report, stats.report, self._who.upkeep)
        asks = spawning(self._plugins.relay)
        self._who.ask(self._plugins.relay)
        dispatcher.authorizer = authorizer(
            self._plugins.relay, config.plugins.auth_cache_s, self._book.roster
        )
        verbs = AgentMethods(self._book, self._fleet, talk, asks).handlers()
        handlers = {
            **verbs,
            **BatchMethods(
                self._book,
                self._fleet,
                verbs,
                config.network.max_message_size,
                asks,
                dispatcher.authorizer,
            ).handlers(),
            **ActionMethods(
                self._book,
                self._plugins.actions,
                at_once=config.plugins.actions_at_once,
                max_message_bytes=config.network.max_message_size,
            ).handlers(),
            **PluginMethods(self._plugins.relay).handlers(),
            **OutputMethods(self._book, watches).handlers(),
            **AttachMethods(self._book, self._fleet, watches).handlers(),
            **TalkMethods(self._book, talk).handlers(),
            **EventMethods(self._book.journal).handlers(),
            **ServerMethods(about, reports, self._book, self._fleet, dispatcher.streams).handlers(),
            **self._reloading.handlers(),
            **AuditMethods(self._audit, self._book.roster).handlers(),
            **self._who.handlers(dispatcher, self._book, self._fleet, self._health.endpoints),
        }
        dispatcher.register(audited(handlers, self._audit, self._book.roster))

    # -- what is looked after all the time

    async def _tidy(self, dispatcher: Dispatcher) -> None:
        """Try again what could not be recorded, and end the streams of who is let in no longer."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TIDY_EVERY_S
            await asyncio.sleep(_TIDY_EVERY_S)
            try:
                self._who.tidy()
                dispatcher.tidy()
                self._health.look(lag_s=loop.time() - due)
                await self._expiry.tick()
                await self._audit.tidy()
                await self._registry.tidy()
            except Exception:  # the boundary: what cannot be tidied now is tried again
                log.exception("tidying.failed")


def version() -> str:
    """The installed version."""
    return metadata.version("descartesd")
