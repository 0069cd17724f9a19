"""Which agents there are for a caller, and what it may do to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

from descartesd.agents.record import Agent
from descartesd.agents.roster import Roster
from descartesd.config.role import Scope
from descartesd.errors import AlreadyExistsError, PermissionDeniedError
from descartesd.methods.grants import Grants
from descartesd.methods.policy import Caller, refusal
from descartesd.wire.methods import METHODS, Method

Judgement = Literal["granted", "denied", "unseen"]

# What becomes of the holder of a name that is replaced.
_ENDING = ("agent.kill", "agent.remove")


def reach(grants: Grants, method: str) -> Scope:
    """On whose agents a granted method works: what is not seen cannot be acted on."""
    return "any" if grants.sees == "any" and grants.methods[method] == "any" else "own"


def judge(grants: Grants, caller_id: str, method: str, agent: Agent) -> Judgement:
    """Whether a granted method may be done to an agent; `unseen` is as if it did not exist."""
    if agent.owner == caller_id:
        return "granted"
    if grants.sees == "own":
        return "unseen"
    return "granted" if grants.methods.get(method) == "any" else "denied"


def find(roster: Roster, caller: Caller, reference: str, method: str) -> Agent:
    """Find the agent a caller names for a method it is granted.

    Raises NotFoundError for one it may not see, exactly as for one that does not exist,
    PermissionDeniedError, or InvalidArgumentError when a prefix fits several it sees.
    """
    grants = caller.grants
    if grants.sees == "any":
        agent = roster.resolve(reference)
        if grants.methods.get(method) == "any" or agent.owner == caller.id:
            return agent
        raise not_yours(caller, agent, method)
    return roster.resolve(reference, seen=lambda agent: agent.owner == caller.id)


def check_name(roster: Roster, caller: Caller, name: str | None, *, replace: bool = False) -> None:
    """Refuse a name whose holder the caller may not see, or may not replace, telling no more.

    Raises AlreadyExistsError, or PermissionDeniedError.
    """
    holder = roster.names.get(name) if name is not None else None
    if holder is None:
        return
    if not sees(caller, holder):
        raise AlreadyExistsError(
            f"the name '{name}' is taken",
            hint="take another name, or none: the server makes one",
        )
    if replace:
        for method in _ENDING:
            if method not in caller.grants.methods:
                raise refusal(caller, METHODS[method])
            if judge(caller.grants, caller.id, method, holder) != "granted":
                raise not_yours(caller, holder, method)


def not_yours(caller: Caller, agent: Agent, method: str) -> PermissionDeniedError:
    """Say that a method is granted on one's own agents only."""
    return PermissionDeniedError(
        f"{method} {caller.grants.verdict(method).rule}; agent '{agent.name}' is {agent.owner}'s",
        hint="ask its owner, or an administrator",
    )


def check_unchanged(caller: Caller, now: Grants, method: Method[Any, Any]) -> None:
    """Refuse what was begun under rights that have become less.

    Raises PermissionDeniedError.
    """
    if method.name not in now.methods:
        raise refusal(dataclasses.replace(caller, grants=now), method)
    if reach(now, method.name) == "own" and reach(caller.grants, method.name) == "any":
        raise PermissionDeniedError(
            f"{method.name} {now.verdict(method.name).rule}: {caller.id} has another role now",
            hint="ask again: what may still be seen is told",
        )


def sees(caller: Caller, agent: Agent) -> bool:
    """Whether an agent exists as far as a caller may know."""
    return caller.grants.sees == "any" or agent.owner == caller.id


def seen_by(roster: Roster, caller: Caller, method: str) -> Iterator[Agent]:
    """All agents a caller sees by a method that only looks, oldest first."""
    if reach(caller.grants, method) == "any":
        return iter(roster)
    return (agent for agent in roster if agent.owner == caller.id)


def owner_filter(caller: Caller, method: str) -> Callable[[str | None], bool] | None:
    """Tells by its owner whether a thing may be told; None where everything may."""
    if reach(caller.grants, method) == "any":
        return None
    return lambda owner: owner == caller.id
