"""The composition root of descartesd: builds every part, starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from importlib import metadata

from descartesd.agents.book import Book
from descartesd.agents.expiry import Expiry
from descartesd.agents.facts import Facts
from descartesd.agents.fleet import Fleet
from descartesd.agents.follow import Watches
from descartesd.agents.journal import Journal
from descartesd.agents.keeper_guard import KeeperGuard, KeeperPaths
from descartesd.agents.keeper_link import KeeperLink, boot_id
from descartesd.agents.monitor import Monitor
from descartesd.agents.output import OutputFiles
from descartesd.agents.recovery import reconcile
from descartesd.agents.registry import Registry
from descartesd.agents.sampler import Sampler
from descartesd.agents.spec import RunnerDefaults
from descartesd.agents.starting import FleetOptions
from descartesd.agents.talk import Talk
from descartesd.agents.use import Use
from descartesd.api import ServerInfo
from descartesd.config.schema import Config
from descartesd.errors import DescartesError, StartupRefusedError
from descartesd.identities import Identities
from descartesd.keys.secretfile import random_secret
from descartesd.listening import listen
from descartesd.methods import cut_short
from descartesd.methods.action import ActionMethods
from descartesd.methods.agent import AgentMethods
from descartesd.methods.attach import AttachMethods
from descartesd.methods.audit import AuditMethods
from descartesd.methods.audited import Refusals, audited, open_log
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
from descartesd.places import allow_descriptors, lock_state, refusing
from descartesd.plugins import Contributions, connect, stopping
from descartesd.transport.context import server_context
from descartesd.transport.selftest import refuse_unknown_key
from descartesd.transport.server import RouterServer
from descartesd.transport.zap import ZapHandler
from descartesd.wire.agent import Reason

log = logging.getLogger(__name__)

_KEEPER_RETRY_S = 1.0
_KEEPER_ASKED_EVERY_S = 5.0
_KEEPER_PATIENCE_S = 10.0
_TIDY_EVERY_S = 1.0
_STOP_MARGIN_S = 10.0
# Once every agent has ended, what waits for an end answers by itself.
_LAST_ANSWERS_S = 0.5
# What goes on without an agent, as an action does.
_LAST_WORK_S = 4.5


class Daemon:
    """One server. `run` returns after an orderly stop."""

    @refusing()
    def __init__(self, config: Config, contributed: Contributions) -> None:
        server = config.server
        self._config = config
        self._lock = lock_state(server.state_dir)
        self._registry = Registry(os.path.join(server.state_dir, "registry.sqlite"))
        self._who = Identities(config, self._registry)
        self._audit = open_log(config, self._who.sealing_key, self._registry)
        self._output_dir = output_dir = os.path.join(server.state_dir, "output")
        os.makedirs(output_dir, mode=0o750, exist_ok=True)
        self._keeper_lost = asyncio.Event()
        self._link = KeeperLink(on_lost=self._keeper_lost.set)
        self._guard = KeeperGuard(
            self._link,
            KeeperPaths(
                socket=os.path.join(server.run_dir, "keeper.sock"),
                output_dir=output_dir,
                log=os.path.join(server.state_dir, "keeper.log"),
                open_files=allow_descriptors(),
            ),
        )
        self._plugins = contributed
        runner = RunnerDefaults(
            working_dir=server.runner.working_dir or None,
            path=server.runner.path,
            output_bytes=config.limits.max_output_buffer_bytes,
            backends=contributed.backends,
        )
        self._book = Book(
            self._registry, Journal(self._registry), OutputFiles(output_dir), server.server_id
        )
        self._book.load(self._registry.agents())
        self._facts = Facts(self._book, self._link)
        quotas_of = self._who.policy.quotas_of
        options = FleetOptions(server.max_agents, runner, config.limits.max_queued, quotas_of)
        self._fleet = Fleet(self._book, self._link, options)
        self._expiry = Expiry(self._book, self._fleet, config.limits.keep_ended_secs)
        self._open_intents = self._registry.open_intents()
        self._answers = Answers(
            self._registry, random_secret(os.path.join(server.state_dir, "digest.key"))
        )
        self._stopping = asyncio.Event()
        self._ending: asyncio.Timeout | None = None

    # -- life

    async def run(self) -> None:
        """Serve until told to stop; raises StartupRefusedError when it may not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        # A terminal that is closed: only a crash leaves agents behind.
        loop.add_signal_handler(signal.SIGHUP, self._stopping.set)
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
        if self._ending is not None:
            # Told again: no agent has its grace time any more.
            self._fleet.kill_all()
            self._ending.reschedule(asyncio.get_running_loop().time() + _STOP_MARGIN_S)

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
        listeners = listen(self._config.server, self._who.publish_host_key, parts)
        self._health = Health(
            Parts(
                book=self._book,
                facts=self._facts,
                fleet=self._fleet,
                keeper=self._link,
                policy=self._who.policy,
                audit=self._audit,
                directories=[self._config.server.state_dir, self._output_dir],
                listeners=listeners,
                plugins=self._plugins.relay,
            ),
            server_id=self._config.server.server_id,
            version=version(),
        )
        dispatcher = Dispatcher(
            self._who.policy,
            self._answers,
            request_timeout_s=float(self._config.server.request_timeout_secs),
            max_message_bytes=self._config.network.max_message_size,
        )
        connect(self._plugins.relay, self._book, loop)
        await self._bring_up_keeper()
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
        async with asyncio.TaskGroup() as group:
            dispatcher.start(group, router.send)
            router.start(loop, listeners)
            self._who.rekey = router.rekey
            await refuse_unknown_key(
                context, listeners[0].endpoint, self._who.host_key.public_text.encode()
            )
            self._health.refuses_strangers = True
            self._health.look(lag_s=0.0)
            router.tell_failures()
            # Not before: the stranger until now was ourselves.
            refusals = Refusals(self._audit, self._who.policy)
            parts.callback(refusals.listen(dispatcher, zap))
            # To the very end: what an agent has said decides how it ended.
            listening = group.create_task(monitor.run(), name="listening")
            minding = [
                group.create_task(self._guard_keeper(), name="keeper guard"),
                group.create_task(self._tidy(dispatcher), name="tidying"),
                group.create_task(self._sampler().run(), name="sampling"),
                group.create_task(self._fleet.turns.run(), name="turns"),
            ]
            await self._until_told_to_stop()
            for task in minding:
                task.cancel()
            dispatcher.refuse_changes()
            await self._end_agents()
            await dispatcher.finish(work_s=_LAST_WORK_S, answers_s=_LAST_ANSWERS_S)
            dispatcher.stop()
            await self._plugins.relay.close()
            listening.cancel()

    async def _until_told_to_stop(self) -> None:
        """Say that the server serves, and at the end that it stops."""
        about = ServerInfo(
            server_id=self._config.server.server_id,
            version=version(),
            endpoints=tuple(self._health.endpoints),
        )
        self._book.journal.record("server_started", data={"version": about.version})
        log.info("server.ready", extra={"listeners": about.endpoints, "pid": os.getpid()})
        self._plugins.relay.daemon_started(about)
        await self._stopping.wait()
        log.info("server.stopping")
        self._book.journal.record("server_stopping")
        await stopping(self._plugins.relay, about)

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
        self.readings = readings_of(
            Measured(config, version(), self._health, dispatcher, router, zap, self._who.trust)
        )
        reports = Reports(self._health.report, stats.report, self._who.upkeep)
        asks = spawning(self._plugins.relay)
        verbs = AgentMethods(self._book, self._fleet, talk, asks).handlers()
        handlers = {
            **verbs,
            **BatchMethods(
                self._book, self._fleet, verbs, config.network.max_message_size, asks
            ).handlers(),
            **ActionMethods(self._book, self._plugins.actions).handlers(),
            **PluginMethods(self._plugins.relay).handlers(),
            **OutputMethods(self._book, watches).handlers(),
            **AttachMethods(self._book, self._fleet, watches).handlers(),
            **TalkMethods(self._book, talk).handlers(),
            **EventMethods(self._book.journal).handlers(),
            **ServerMethods(about, reports, self._book, self._fleet, dispatcher.streams).handlers(),
            **AuditMethods(self._audit, self._book.roster).handlers(),
            **self._who.handlers(dispatcher, self._book, self._fleet, self._health.endpoints),
        }
        dispatcher.register(audited(handlers, self._audit, self._book.roster))

    # -- the keeper

    async def _guard_keeper(self) -> None:
        """Bring a keeper back whenever there is none, or none that answers."""
        while True:
            if not self._link.connected:
                await asyncio.sleep(_KEEPER_RETRY_S)
            elif await self._keeper_is_well():
                continue
            await self._bring_up_keeper()

    async def _keeper_is_well(self) -> bool:
        """Wait until the keeper is lost, or until it is time to ask whether it answers."""
        try:
            async with asyncio.timeout(_KEEPER_ASKED_EVERY_S):
                await self._keeper_lost.wait()
            # The loss may have been that of one before, while this one was brought up.
            self._keeper_lost.clear()
            return self._link.connected
        except TimeoutError:
            if await self._link.answers(_KEEPER_PATIENCE_S):
                self._health.keeper_answered()
                return True
            self._do_without_keeper("the keeper does not answer")
        return False

    async def _bring_up_keeper(self) -> None:
        """Connect to a keeper and agree with it on every agent; without one, serve reads."""
        self._keeper_lost.clear()
        try:
            await self._guard.ensure()
            same_boot = self._registry.meta("boot_id") in (None, boot_id())
            reason: Reason = "keeper_lost" if same_boot else "host_lost"
            unknown = await reconcile(self._book, self._facts, self._link, reason)
        except DescartesError as exc:
            self._do_without_keeper(exc.message)
            return
        except Exception as exc:  # the boundary: without a keeper reads are served all the same
            problem = f"{type(exc).__name__}: {exc}"
            if problem != self._health.keeper_problem:
                log.exception("keeper.cannot_be_used")
            self._do_without_keeper(problem)
            return
        self._health.keeper_answered()
        self._facts.unknown = set(unknown)
        self._registry.set_meta("boot_id", boot_id())
        self._registry.save()
        self._close_open_intents()
        self._fleet.turns.keeper_is_ready()

    def _do_without_keeper(self, problem: str) -> None:
        if problem != self._health.keeper_problem:
            log.error("keeper.unavailable", extra={"cause": problem})
        self._health.keeper_problem = problem
        self._link.close()

    def _close_open_intents(self) -> None:
        """Answer what an earlier life of this daemon left open, so that it never runs again."""
        intents, self._open_intents = self._open_intents, []
        most = self._config.network.max_message_size
        for intent in intents:
            answered = cut_short.outcome(intent, self._book, most)
            self._answers.close(intent, answered)
            self._audit.add(cut_short.line(intent, answered))

    async def _end_agents(self) -> None:
        """End every agent in order, then the keeper: a stop of the foreground means stop."""
        if not self._link.connected:
            return
        self._fleet.starts.closed = "the server is stopping"
        self._fleet.end_waiting()
        self._link.leaving = True
        patience = _STOP_MARGIN_S + self._book.roster.longest_grace_s()
        with contextlib.suppress(TimeoutError, DescartesError):
            async with asyncio.timeout(patience) as self._ending:
                await self._link.request("shutdown")
        self._ending = None
        await self._guard.gone(_STOP_MARGIN_S)

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
