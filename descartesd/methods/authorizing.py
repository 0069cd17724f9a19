"""Asks plugins whether a request may go on that a role allows, and keeps their answers for a while.

It fails closed: what no plugin could decide is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from msgspec import Struct

from descartesd.agents.roster import Roster
from descartesd.errors import DescartesError
from descartesd.hooks.relay import Relay
from descartesd.methods.outcomes import bare
from descartesd.methods.policy import Caller
from descartesd.methods.sight import sees
from descartesd.methods.spawning import identity_of
from descartesd.methods.targets import target_of
from descartesd.wire.methods import METHODS

# Nobody would find out what is wrong without these.
FREE = frozenset(("server.hello", "server.health", "plugin.list", "stream.credit", "stream.cancel"))
_MOST_KEPT = 10_000

# Who, with which role, which method, about what.
_Question = tuple[str, str, str, str | None]


class _Verdict(NamedTuple):
    """What was decided, and until when (`time.monotonic`) that holds."""

    refusal: DescartesError | None
    until: float


class Authorizer:
    """Decides by plugins; a decision is good for `kept_s`."""

    def __init__(
        self,
        relay: Relay,
        kept_s: float,
        roster: Roster,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._kept_s = kept_s
        self._roster = roster
        self._clock = clock
        self._verdicts: dict[_Question, _Verdict] = {}
        self._asking: dict[_Question, asyncio.Task[DescartesError | None]] = {}
        self._targets = {name: target_of(method) for name, method in METHODS.items()}

    def is_allowed(self, caller: Caller, method: str, params: Struct) -> bool:
        """Whether a request may go on, as far as that is known; raises what refuses it."""
        return method in FREE or self._is_decided(
            caller, method, self._target(caller, method, params)
        )

    async def allow(self, caller: Caller, method: str, params: Struct) -> None:
        """Wait until it is decided; raises what refuses it."""
        if method not in FREE:
            await self.decide(caller, method, self._target(caller, method, params))

    def recheck(self, caller: Caller, method: str, params: Struct) -> None:
        """Hold what goes on for long against the last decision, and see to it that one is made."""
        target = self._target(caller, method, params)
        if not self._is_decided(caller, method, target):
            self._ask(caller, method, target)

    async def decide(self, caller: Caller, method: str, target: str | None) -> None:
        """As `allow`, where it is known what a request is about."""
        if self._is_decided(caller, method, target):
            return
        refusal = await asyncio.shield(self._ask(caller, method, target))
        if refusal is not None:
            raise bare(refusal)

    def _target(self, caller: Caller, method: str, params: Struct) -> str | None:
        """What a request is about: an agent by its id, anything else as it is named.

        Only the agents the caller sees count, as for the method itself: it must be the same agent.
        """
        word = self._targets[method](params)
        if word is None or not method.startswith("agent."):
            return word
        try:
            return self._roster.resolve(word, seen=partial(sees, caller)).id
        except DescartesError:
            return word

    def _is_decided(self, caller: Caller, method: str, target: str | None) -> bool:
        verdict = self._verdicts.get((caller.id, caller.role, method, target))
        if verdict is None or verdict.until <= self._clock():
            return False
        if verdict.refusal is not None:
            raise bare(verdict.refusal)
        return True

    def _ask(
        self, caller: Caller, method: str, target: str | None
    ) -> asyncio.Task[DescartesError | None]:
        """Ask once for all who want to know."""
        question = (caller.id, caller.role, method, target)
        task = self._asking.get(question)
        if task is None:
            work = self._answer(caller, question)
            # Whoever asked may be gone before it is answered; it raises nothing.
            task = self._asking[question] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(partial(self._forget, question))
        return task

    def _forget(self, question: _Question, _task: Any) -> None:
        self._asking.pop(question, None)

    async def _answer(self, caller: Caller, question: _Question) -> DescartesError | None:
        _, _, method, target = question
        refusal: DescartesError | None = None
        try:
            await self._relay.authorize_request(identity_of(caller), method, target)
        except DescartesError as exc:
            refusal = bare(exc)
        while len(self._verdicts) >= _MOST_KEPT:
            del self._verdicts[next(iter(self._verdicts))]
        # The latest last.
        self._verdicts.pop(question, None)
        self._verdicts[question] = _Verdict(refusal, self._clock() + self._kept_s)
        return refusal


def authorizer(relay: Relay, kept_s: float, roster: Roster) -> Authorizer | None:
    """Who decides; None where no plugin wants to."""
    return Authorizer(relay, kept_s, roster) if relay.has("authorize_request") else None
