"""Asks plugins before a new agent is started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from descartesd.api import Identity
from descartesd.errors import DescartesError
from descartesd.hooks.relay import Relay
from descartesd.methods.policy import Caller
from descartesd.wire.agent import AgentSpec

# The spec an agent is to be started with; raises what a plugin refuses it with.
Spawning = Callable[[AgentSpec, Caller], Awaitable[AgentSpec]]


def spawning(relay: Relay) -> Spawning | None:
    """Whom to ask; None where no plugin wants to be asked."""
    if not relay.has("agent_spawning"):
        return None

    async def ask(spec: AgentSpec, caller: Caller) -> AgentSpec:
        return await relay.agent_spawning(spec, identity_of(caller))

    return ask


def identity_of(caller: Caller) -> Identity:
    """Who asks, as plugins are told."""
    return Identity(id=caller.id, role=caller.role, name=caller.name)


async def settled_spec(asked: Awaitable[AgentSpec]) -> AgentSpec | DescartesError:
    """The answer, or the error it is refused with."""
    try:
        return await asked
    except DescartesError as exc:
        return exc.with_traceback(None)
