"""The methods about agents."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial

from msgspec import Raw, Struct, structs

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.record import Agent
from descartesd.agents.secrets import check_given
from descartesd.agents.selector import matcher
from descartesd.agents.spec import signal_number
from descartesd.agents.talk import Talk, conversation
from descartesd.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from descartesd.methods.call import Call, Handler, check_still, count_start
from descartesd.methods.sight import check_name, find, seen_by
from descartesd.methods.spawning import Spawning
from descartesd.methods.specrules import check_spec
from descartesd.wire import agent as wire
from descartesd.wire.server import Done
from descartesd.wire.talk import AgentPause, AgentRespawn


class _Page(Struct, frozen=True, kw_only=True):
    """An AgentPage of agents that are encoded already."""

    agents: list[Raw]
    total: int
    next: str | None


class AgentMethods:
    """One function per method."""

    def __init__(
        self, book: Book, fleet: Fleet, talk: Talk, spawning: Spawning | None = None
    ) -> None:
        self._book = book
        self._fleet = fleet
        self._talk = talk
        self._registry = book.registry
        # Whom to ask before an agent is started; nobody, where no plugin wants to be.
        self._spawning = spawning

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {
            "agent.spawn": self.spawn,
            "agent.list": self.list,
            "agent.get": self.get,
            "agent.wait": self.wait,
            "agent.pause": self.pause,
            "agent.resume": self.resume,
            "agent.stop": self.stop,
            "agent.kill": self.kill,
            "agent.signal": self.signal,
            "agent.write": self.write,
            "agent.close_stdin": self.close_stdin,
            "agent.respawn": self.respawn,
            "agent.remove": self.remove,
        }

    def _find(self, call: Call, reference: str, method: str) -> Agent:
        return find(self._book.roster, call.caller, reference, method)

    async def spawn(self, call: Call, params: wire.AgentSpawn) -> wire.AgentInfo:
        count_start(call)
        spec = params.spec
        if self._spawning is not None:
            spec = await self._spawning(spec, call.caller)
        bounds = check_spec(call.caller.grants, "agent.spawn", spec)
        check_name(self._book.roster, call.caller, spec.name, replace=params.replace)
        if params.replace and spec.name is not None:
            # The holder of the name must not go for what cannot be started.
            await self._registry.durable()
            await self._fleet.starts.try_out(spec, call.caller.id, params.secrets, bounds)
            check_name(self._book.roster, call.caller, spec.name, replace=True)
            check_still(call, "agent.spawn")
            await self._clear(spec.name, call.caller.id)
            check_name(self._book.roster, call.caller, spec.name)
        check_still(call, "agent.spawn")
        agent = self._fleet.starts.reserve(spec, call.caller.id, params.secrets, bounds)
        return await self._start(call, agent)

    async def _start(self, call: Call, agent: Agent) -> wire.AgentInfo:
        if call.idem is not None:
            # With the attempt, in one transaction: until then nothing was begun.
            self._registry.bind_intent(call.caller.id, call.idem, agent.id)
        await self._fleet.starts.start(agent)
        if call.idem is None:
            # Under a key the answer is recorded, and the agent with it.
            await self._book.settled()
        return self._book.views.info(agent)

    async def _clear(self, name: str, owner: str) -> None:
        holder = self._book.roster.names.get(name)
        if holder is not None:
            self._fleet.starts.admit_in_place_of(holder, owner)
            # It may go by itself: its start may fail, or somebody else removes it.
            with contextlib.suppress(NotFoundError):
                await self._fleet.kill(holder)
                await self._fleet.remove(holder)

    def list(self, call: Call, params: wire.AgentList) -> _Page:
        is_meant = matcher(params.labels, params.states, params.owner)
        wanted = [a for a in seen_by(self._book.roster, call.caller, "agent.list") if is_meant(a)]
        rest = [agent for agent in wanted if params.cursor is None or agent.id > params.cursor]
        page = rest[: params.limit]
        return _Page(
            agents=[self._book.views.encoded(agent) for agent in page],
            total=len(wanted),
            next=page[-1].id if len(rest) > len(page) else None,
        )

    def get(self, call: Call, params: wire.AgentRef) -> Raw:
        return self._book.views.encoded(self._find(call, params.id, "agent.get"))

    async def wait(self, call: Call, params: wire.AgentRef) -> wire.AgentInfo:
        agent = self._find(call, params.id, "agent.wait")
        return await self._fleet.ended(agent)

    async def pause(self, call: Call, params: AgentPause) -> wire.AgentInfo:
        agent = self._find(call, params.id, "agent.pause")
        await (self._talk if params.mode == "cooperative" else self._fleet).pause(agent)
        return self._book.views.info(agent)

    async def resume(self, call: Call, params: wire.AgentRef) -> wire.AgentInfo:
        agent = self._find(call, params.id, "agent.resume")
        await self._fleet.resume(agent)
        return self._book.views.info(agent)

    async def stop(self, call: Call, params: wire.AgentStop) -> wire.AgentInfo:
        agent = self._find(call, params.id, "agent.stop")
        number = None if params.signal is None else signal_number(params.signal)
        return await self._fleet.stop(agent, number, params.grace_s)

    async def kill(self, call: Call, params: wire.AgentRef) -> wire.AgentInfo:
        agent = self._find(call, params.id, "agent.kill")
        return await self._fleet.kill(agent)

    async def respawn(self, call: Call, params: AgentRespawn) -> wire.AgentInfo:
        agent = self._find(call, params.id, "agent.respawn")
        self._refuse_elevation(call.caller.uid, agent)
        # It may have been started under a role that allowed more, or by somebody else.
        bounds = check_spec(call.caller.grants, "agent.respawn", agent.spec)
        self._fleet.check(agent, "respawn")
        count_start(call)
        if params.secrets:
            check_given(agent.spec, params.secrets)
        else:
            # Told before a further attempt is begun that could never be started.
            self._fleet.starts.secrets.of(agent)
        resume = conversation(agent, params, self._fleet.starts.backends)
        await self._fleet.renew(agent, partial(check_still, call, "agent.respawn"))
        agent.resume = resume
        if agent.owner == call.caller.id or agent.bounds is None:
            agent.bounds = bounds
        if params.task is not None:
            agent.spec = structs.replace(agent.spec, task=params.task)
        self._book.put(agent)
        self._fleet.starts.secrets.keep(agent.id, params.secrets)
        return await self._start(call, agent)

    async def signal(self, call: Call, params: wire.AgentSignal) -> wire.Signalled:
        agent = self._find(call, params.id, "agent.signal")
        reached = await self._fleet.signal(agent, signal_number(params.signal))
        return wire.Signalled(processes=reached)

    async def write(self, call: Call, params: wire.AgentWrite) -> wire.Written:
        if params.offset is not None and params.writer is None:
            raise InvalidArgumentError("offset: it counts the bytes of a writer, and none is given")
        agent = self._find(call, params.id, "agent.write")
        accepted, offset = await self._fleet.write(agent, params.data, params.writer, params.offset)
        return wire.Written(accepted=accepted, offset=offset)

    async def close_stdin(self, call: Call, params: wire.AgentRef) -> Done:
        await self._fleet.close_stdin(self._find(call, params.id, "agent.close_stdin"))
        return Done()

    async def remove(self, call: Call, params: wire.AgentRef) -> Done:
        await self._fleet.remove(self._find(call, params.id, "agent.remove"))
        return Done()

    def _refuse_elevation(self, uid: int | None, agent: Agent) -> None:
        """Refuse a local user other than root an agent that would run as somebody else."""
        starts = self._fleet.starts
        if uid in (None, 0) or not starts.may_be_others:
            return
        account = starts.account(agent.spec, agent.owner)
        if account.pw_uid != uid:
            raise PermissionDeniedError(
                f"agent '{agent.name}' runs as '{account.pw_name}': the local user of uid {uid} may"
                " not start it again",
                hint="have it respawned by its owner or by root",
            )
