"""The methods about many agents at once, each agent on its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct, structs

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.record import Agent
from descartesd.agents.selector import matcher
from descartesd.errors import (
    AbortedError,
    DescartesError,
    InvalidArgumentError,
    UnavailableError,
)
from descartesd.methods.authorizing import Authorizer
from descartesd.methods.call import Call, Handler, check_still, count_start
from descartesd.methods.outcomes import bare, settled
from descartesd.methods.params import inner
from descartesd.methods.policy import Caller, refusal
from descartesd.methods.sight import check_name, find, judge, not_yours, sees
from descartesd.methods.spawning import Spawning, settled_spec
from descartesd.methods.specrules import check_spec
from descartesd.wire import codec
from descartesd.wire.agent import AgentInfo, AgentSpec
from descartesd.wire.batch import BatchItem, BatchResult, BatchRun, BatchSpawn, Selector
from descartesd.wire.methods import METHODS
from descartesd.wire.server import Done

# Enough to keep the keeper busy, and few enough to let everybody else's requests in between.
_AT_ONCE = 128
# An end takes up to its grace time, which is spent waiting.
_ENDS_AT_ONCE = 1024
# So many agents are made at once: reserving waits for nothing, and others get their turn after it.
_PORTION = 64
# The envelope and the counts around the items.
_FRAME_BYTES = 512
_NO_AGENT = "-"

# What became of one agent; None where nothing was begun.
Outcome = Struct | DescartesError | None
Job = Callable[[], Coroutine[Any, Any, Struct]]
# What one spec of a batch was given, once that is durable.
Place = asyncio.Future[Agent | DescartesError]


class BatchMethods:
    """One function per method; `verbs` are the functions for single agents by method name."""

    def __init__(
        self,
        book: Book,
        fleet: Fleet,
        verbs: Mapping[str, Handler],
        max_message_bytes: int,
        spawning: Spawning | None = None,
        authorizer: Authorizer | None = None,
    ) -> None:
        self._book = book
        self._fleet = fleet
        self._verbs = verbs
        self._max_message_bytes = max_message_bytes
        self._spawning = spawning
        self._authorizer = authorizer

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"batch.run": self.run, "batch.spawn": self.spawn}

    async def run(self, call: Call, params: BatchRun) -> BatchResult:
        method = METHODS[f"agent.{params.verb}"]
        if method.name not in call.caller.grants.methods:
            raise refusal(call.caller, method)
        if "id" in params.params:
            raise InvalidArgumentError(
                "params: 'id' has no place here", hint="name the agents in ids, or select them"
            )
        # Any id will do: each agent's own takes its place.
        request = inner(method.request, {**params.params, "id": "any"})
        asked = [(word, _key(word, target), target) for word, target in self._targets(call, params)]
        part = structs.replace(call, idem=None)
        jobs: dict[str, Job] = {
            key: partial(self._do, part, params, request, target) for _, key, target in asked
        }
        width = _ENDS_AT_ONCE if params.verb in ("stop", "kill") else _AT_ONCE
        outcomes = await _carry_out(
            list(jobs.values()), method.name, width=width, fail_fast=params.fail_fast
        )
        found = dict(zip(jobs, outcomes, strict=True))
        items = [_item(word, found[key]) for word, key, _ in asked]
        return _result(items, self._max_message_bytes)

    def _targets(
        self, call: Call, params: BatchRun
    ) -> Iterator[tuple[str, Agent | DescartesError]]:
        """Who is meant: each by the word it was asked for by, or by its id."""
        if params.ids and params.select is not None:
            raise InvalidArgumentError("ids and select: expected one of them, both are given")
        words: Sequence[str] = params.ids
        if params.select is not None:
            words = [agent.id for agent in self._selected(call.caller, params.select)]
        elif not params.ids:
            raise InvalidArgumentError(
                "ids: no agent is named and none selected",
                hint="name agents in ids, or select them; all agents are select {all: true}",
            )
        method = f"agent.{params.verb}"
        return ((word, self._resolve(call.caller, word, method)) for word in words)

    def _resolve(self, caller: Caller, word: str, method: str) -> Agent | DescartesError:
        try:
            agent = find(self._book.roster, caller, word, method)
            if judge(caller.grants, caller.id, "batch.run", agent) != "granted":
                raise not_yours(caller, agent, "batch.run")
        except DescartesError as exc:
            return bare(exc)
        return agent

    def _selected(self, caller: Caller, select: Selector) -> list[Agent]:
        if not (select.labels or select.states or select.owner or select.all):
            raise InvalidArgumentError(
                "select: expected labels, states, owner or all",
                hint="all agents are {all: true}",
            )
        meant = matcher(select.labels, select.states, select.owner, field="select.labels")
        return [agent for agent in self._book.roster if sees(caller, agent) and meant(agent)]

    async def _do(
        self, call: Call, params: BatchRun, request: Struct, target: Agent | DescartesError
    ) -> Struct:
        if isinstance(target, DescartesError):
            raise target
        if self._authorizer is not None:
            await self._authorizer.decide(call.caller, f"agent.{params.verb}", target.id)
        check_still(call, f"agent.{params.verb}")
        if params.dry_run:
            self._fleet.check(target, params.verb)
        else:
            verb = self._verbs[f"agent.{params.verb}"]
            answer = verb(call, structs.replace(request, id=target.id))
            done = await answer if inspect.isawaitable(answer) else answer
            if isinstance(done, AgentInfo):
                return done
        is_there = self._book.roster.get(target.id) is target
        return self._book.views.info(target) if is_there else Done()

    async def spawn(self, call: Call, params: BatchSpawn) -> BatchResult:
        named = {name for spec in params.specs for name in spec.secret_env}
        if more := sorted(params.secrets.keys() - named):
            raise InvalidArgumentError(
                f"secrets: {', '.join(more)} is given and named in no spec's secret_env"
            )
        places: list[Place] = [asyncio.get_running_loop().create_future() for _ in params.specs]
        portions = range(0, len(places), _PORTION)
        # While nothing has begun, what refuses all of them refuses the request.
        await self._reserve(call, params, places, portions[0])
        jobs: list[Job] = [partial(self._start, place) for place in places]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reserve_rest(call, params, places, portions[1:]))
            outcomes = await _carry_out(
                jobs, "batch.spawn", width=_AT_ONCE, fail_fast=params.fail_fast
            )
        for place, outcome in zip(places, outcomes, strict=True):
            if outcome is None and isinstance(agent := place.result(), Agent):
                self._fleet.starts.release(agent)
        if call.idem is None:
            # Under a key the answer is recorded, and the agents with it.
            await self._book.settled()
        words = (spec.name or _place(number) for number, spec in enumerate(params.specs))
        return _result(list(map(_spawned, words, outcomes)), self._max_message_bytes)

    async def _reserve_rest(
        self, call: Call, params: BatchSpawn, places: Sequence[Place], portions: range
    ) -> None:
        """Reserve while others start, which takes longer."""
        for first in portions:
            try:
                await self._reserve(call, params, places, first)
            except UnavailableError as exc:
                for place in places[first : first + _PORTION]:
                    place.set_result(bare(exc))
            await asyncio.sleep(0)

    async def _reserve(
        self, call: Call, params: BatchSpawn, places: Sequence[Place], first: int
    ) -> None:
        """Make the agents of one portion durable at once, and what the key stands for by then."""
        has_failed = params.fail_fast and any(
            isinstance(place.result(), DescartesError) for place in places[:first]
        )
        found: list[Agent | DescartesError] = []
        for spec in await self._asked(call, params.specs[first : first + _PORTION]):
            each = _not_attempted() if has_failed else self._reserve_one(call, params, spec)
            has_failed = has_failed or (params.fail_fast and isinstance(each, DescartesError))
            found.append(each)
        agents = [each for each in found if isinstance(each, Agent)]
        if call.idem is not None:
            known = [place.result() for place in places[:first]] + found
            self._book.registry.bind_intent(call.caller.id, call.idem, _ids(known, len(places)))
        try:
            await self._book.registry.durable()
        except UnavailableError:
            for agent in agents:
                self._fleet.starts.release(agent)
            raise
        for place, each in zip(places[first:], found, strict=False):
            place.set_result(each)

    async def _asked(
        self, call: Call, specs: Sequence[AgentSpec]
    ) -> Sequence[AgentSpec | DescartesError]:
        """What plugins make of the specs."""
        if self._spawning is None and self._authorizer is None:
            return specs
        return await asyncio.gather(*(settled_spec(self._ask(call, spec)) for spec in specs))

    async def _ask(self, call: Call, spec: AgentSpec) -> AgentSpec:
        if self._authorizer is not None:
            await self._authorizer.decide(call.caller, "agent.spawn", spec.name)
        return spec if self._spawning is None else await self._spawning(spec, call.caller)

    def _reserve_one(
        self, call: Call, params: BatchSpawn, spec: AgentSpec | DescartesError
    ) -> Agent | DescartesError:
        if isinstance(spec, DescartesError):
            return spec
        secrets = {name: params.secrets[name] for name in spec.secret_env if name in params.secrets}
        try:
            check_still(call, "batch.spawn")
            count_start(call)
            bounds = check_spec(call.caller.grants, "batch.spawn", spec)
            check_name(self._book.roster, call.caller, spec.name)
            return self._fleet.starts.reserve(spec, call.caller.id, secrets, bounds)
        except DescartesError as exc:
            return bare(exc)

    async def _start(self, place: Place) -> AgentInfo:
        agent = await place
        if isinstance(agent, DescartesError):
            raise agent
        await self._fleet.starts.start(agent)
        return self._book.views.info(agent)


def _ids(known: Sequence[Agent | DescartesError], count: int) -> str:
    """What the key of a batch is bound to: an id for each spec that has an agent by now."""
    ids = [each.id if isinstance(each, Agent) else _NO_AGENT for each in known]
    return " ".join(ids + [_NO_AGENT] * (count - len(ids)))


def what_was_spawned(book: Book, bound: str, max_message_bytes: int) -> BatchResult:
    """What became of a batch.spawn that a dead server left open, by the ids its key is bound to."""
    agents = (book.roster.get(agent_id) for agent_id in bound.split(" "))
    items = [
        _spawned(_place(number), _cut_short() if agent is None else book.views.info(agent))
        for number, agent in enumerate(agents)
    ]
    return _result(items, max_message_bytes)


async def _carry_out(
    jobs: Sequence[Job], method: str, *, width: int, fail_fast: bool
) -> list[Outcome]:
    """Begin the jobs in their order, `width` of them at once; what became of each."""
    outcomes: list[Outcome] = [None] * len(jobs)
    left = iter(enumerate(jobs))

    async def work() -> None:
        for number, job in left:
            outcome = outcomes[number] = await settled(job(), method)
            if fail_fast and isinstance(outcome, DescartesError):
                return
            # A job may never have waited: others get their turn all the same.
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(1 if fail_fast else min(width, len(jobs))):
            group.create_task(work(), name=method)
    return outcomes


def _key(word: str, target: Agent | DescartesError) -> str:
    """Two words may mean one agent."""
    return target.id if isinstance(target, Agent) else word


def _place(number: int) -> str:
    return f"specs[{number}]"


def _spawned(word: str, outcome: Outcome) -> BatchItem:
    return _item(outcome.id if isinstance(outcome, AgentInfo) else word, outcome)


def _item(word: str, outcome: Outcome) -> BatchItem:
    match outcome:
        case None:
            return _item(word, _not_attempted())
        case DescartesError():
            return BatchItem(id=word, ok=False, error=codec.wire_error(outcome))
        case AgentInfo():
            return BatchItem(id=word, ok=True, agent=outcome)
        case _:
            return BatchItem(id=word, ok=True)


def _not_attempted() -> DescartesError:
    return AbortedError("not attempted: the batch ended at its first failure")


def _cut_short() -> DescartesError:
    return AbortedError(
        "a restart of the server cut this short: there is no such agent",
        hint="ask again with a new key",
    )


def _result(items: list[BatchItem], max_message_bytes: int) -> BatchResult:
    succeeded = sum(item.ok for item in items)
    return BatchResult(
        results=_within(items, max_message_bytes - _FRAME_BYTES),
        succeeded=succeeded,
        failed=len(items) - succeeded,
    )


def _within(items: list[BatchItem], most: int) -> list[BatchItem]:
    """Leave the last agents out where all of them are more than one message may hold."""
    whole = [len(codec.encode(item)) for item in items]
    if sum(whole) <= most:
        return items
    without = [structs.replace(item, agent=None) for item in items]
    room = most - sum(len(codec.encode(item)) for item in without)
    for number, (size, item) in enumerate(zip(whole, without, strict=True)):
        room -= size - len(codec.encode(item))
        if room < 0:
            return items[:number] + without[number:]
    return items
