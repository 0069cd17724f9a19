"""Whatever is asked in whatever order, over crashes: a small model tells what may be answered."""

from __future__ import annotations

import os
import signal as signals
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, get_args

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from descartesd.agents.lifecycle import ALIVE, ENDED
from descartesd.errors import AbortedError, ConflictError, NotFoundError
from descartesd.wire.agent import AgentInfo, AgentSpec, State, StopSpec
from descartesd.wire.batch import BatchItem, Selector
from tests.support.agents import is_stopped, output
from tests.support.eventually import eventually
from tests.support.follower import Follower
from tests.support.model import Answer, Model, Verb
from tests.support.programs import LINE, LINES, PROGRAMS, lines_by_attempt
from tests.support.server import running
from tests.support.stage import MARK, Stage

# In one example, of daemon or keeper; a start takes as long as hundreds of requests.
CRASHES = 1
# So few that agents have to wait for each other.
SLOTS = 5
VERBS: list[Verb] = ["get", "pause", "resume", "stop", "kill", "respawn", "remove"]


class Agents(RuleBasedStateMachine):
    """Anything anybody may do, in any order."""

    agents: Bundle[Model] = Bundle("agents")
    readers: Bundle[Model] = Bundle("readers")

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.client = stage.client
        self.example = uuid.uuid4().hex
        self.models: dict[str, Model] = {}
        # Lines given to each reader in its present attempt.
        self.given: dict[str, int] = {}
        self.crashes = 0

    @initialize(target=agents)
    def begin(self) -> Model:
        return self.spawn("sleeper")

    @initialize(targets=(agents, readers))
    def begin_reading(self) -> Model:
        return self.spawn("reader")

    @rule(target=agents, kind=st.sampled_from(sorted(PROGRAMS)))
    def spawn(self, kind: str) -> Model:
        wanted = AgentSpec(
            command=PROGRAMS[kind].spec.command,
            stdin=PROGRAMS[kind].spec.stdin,
            restart=PROGRAMS[kind].spec.restart,
            env={MARK: self.stage.mark},
            labels={"example": self.example, "kind": kind},
            stop=StopSpec(grace_s=0.2),
        )
        agent = self.client.agent.spawn(spec=wanted)
        model = self.models[agent.id] = Model(agent.id, kind, PROGRAMS[kind].ends)
        model.restarts = wanted.restart.policy != "never"
        model.last = PROGRAMS[kind].attempt_ends
        model.may_be = {"queued"}
        model.told("get", agent.state)
        assert (agent.queue_position is not None) == (agent.state == "queued")
        return model

    @rule(model=agents, verb=st.sampled_from(["pause", "resume"]))
    def hold(self, model: Model, verb: Verb) -> None:
        self.ask(model, verb)

    @rule(model=agents, verb=st.sampled_from(["stop", "kill"]))
    def end(self, model: Model, verb: Verb) -> None:
        self.ask(model, verb)

    @rule(model=agents, verb=st.sampled_from(["respawn", "remove", "get"]))
    def ask(self, model: Model, verb: Verb) -> None:
        self.told(model, verb, self.answer(model, verb))

    @precondition(lambda self: self.crashes < CRASHES)
    @rule(model=agents, verb=st.sampled_from(VERBS))
    def crash_while_asked(self, model: Model, verb: Verb) -> None:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.answer, model, verb)
            self.crash()
        try:
            self.told(model, verb, asked.result())
        except AbortedError:
            model.heard_nothing(verb)
            if verb == "respawn":
                self.learn_attempt(model)

    @precondition(lambda self: self.crashes < CRASHES)
    @rule()
    def crash(self) -> None:
        self.crashes += 1
        self.stage.server.crash_and_restart()

    @precondition(lambda self: self.crashes < CRASHES)
    @rule()
    def crash_keeper(self) -> None:
        self.crashes += 1
        before = self.pids()
        pid = self.stage.server.keeper_pid
        assert pid is not None
        os.kill(pid, signals.SIGKILL)
        eventually(lambda: not self.pids() & before)
        # The loss may not even be known yet.
        eventually(lambda: self.client.server.health().keeper.pid not in (None, pid))
        for model in self.models.values():
            model.lost()

    def pids(self) -> set[int | None]:
        """Of every agent that has a process."""
        return {each.pid for each in self.client.agent.list(limit=1000).agents} - {None}

    @rule(verb=st.sampled_from(VERBS), kind=st.sampled_from([None, *sorted(PROGRAMS)]))
    def ask_all(self, verb: Verb, kind: str | None) -> None:
        labels = self.labels(kind)
        before = {model.id for model in self.of_kind(kind) if model.may_be != {"gone"}}
        done = self.client.batch.run(verb=verb, select=Selector(labels=labels))
        assert {item.id for item in done.results} == before
        assert done.succeeded + done.failed == len(done.results)
        assert done.succeeded == sum(item.ok for item in done.results)
        for item in done.results:
            self.told(self.models[item.id], verb, answer_of(item, verb))

    @rule(model=agents, signal=st.sampled_from(["KILL", "CONT", "WINCH"]))
    def signal(self, model: Model, signal: str) -> None:
        try:
            self.client.agent.signal(id=model.id, signal=signal)
        except (ConflictError, NotFoundError) as error:
            model.told("signal", error.code)
            return
        model.may_be = model.now() & {"running", "paused"}
        assert model.may_be, "an agent that has ended took a signal"
        if signal == "CONT":
            model.may_be = {"running"}
        model.is_doomed |= signal == "KILL"

    @rule(model=agents)
    def settle(self, model: Model) -> None:
        if "paused" in model.may_be or not (model.ends or model.is_doomed):
            return
        # Without an end of another it may wait for ever.
        if model.restarts or "queued" in model.may_be:
            return
        try:
            ended = self.client.agent.wait(id=model.id, deadline_s=10)
        except NotFoundError:
            model.told("get", "not_found")
        else:
            self.told(model, "get", ended.state)
            assert ended.state in ENDED

    @rule(model=readers, lines=st.integers(1, 500))
    def write(self, model: Model, lines: int) -> None:
        if model.ends or model.is_doomed or not model.may_be <= {"running", "paused"}:
            return
        first = self.given.get(model.id, 0)
        text = b"".join(LINE % number for number in range(first, first + lines))
        assert self.client.write(model.id, text).accepted == len(text)
        self.given[model.id] = first + lines

    @rule(model=readers)
    def close_stdin(self, model: Model) -> None:
        if model.may_be & {"gone", "queued"}:
            return
        self.client.agent.close_stdin(id=model.id)
        model.ends = frozenset(("completed",))

    @rule(
        states=st.sets(st.sampled_from(get_args(State)), max_size=3),
        kind=st.sampled_from([None, *sorted(PROGRAMS)]),
    )
    def list_agents(self, states: set[State], kind: str | None) -> None:
        page = self.client.agent.list(states=sorted(states), labels=self.labels(kind), limit=1000)
        assert page.total == len(page.agents)
        listed = {agent.id: agent.state for agent in page.agents}
        for model in self.of_kind(kind):
            if model.id in listed:
                assert not states or listed[model.id] in states
                self.told(model, "get", listed[model.id])
            elif states:
                model.may_be = model.now() - states
                assert model.may_be, f"{model.id} was not listed"
            else:
                model.told("get", "not_found")
        assert listed.keys() <= self.models.keys()

    @rule(model=agents, offset=st.integers(0, 5000), limit=st.integers(1, 5000))
    def read(self, model: Model, offset: int, limit: int) -> None:
        try:
            chunk = self.client.agent.output(id=model.id, offset=offset, limit=limit)
        except NotFoundError:
            model.told("get", "not_found")
            return
        whole = self.written(model)
        assert chunk.data == whole[chunk.offset : chunk.next_offset]
        assert chunk.offset == offset
        assert chunk.truncated_before == 0

    @invariant()
    def slots_are_used_and_no_more(self) -> None:
        eventually(self.is_well_filled, timeout=3)

    def is_well_filled(self) -> bool:
        """Whether nobody waits for a slot while there is one."""
        agents = self.client.agent.list(limit=1000).agents
        alive = sum(agent.state in ALIVE for agent in agents)
        assert alive <= SLOTS
        places = [each.queue_position for each in agents if each.queue_position is not None]
        assert sorted(places) == list(range(1, len(places) + 1))
        return alive == SLOTS or not places

    @invariant()
    def no_process_outlives_its_agent(self) -> None:
        eventually(lambda: not self.strays(), timeout=3)

    def strays(self) -> list[tuple[str, psutil.Process]]:
        return [
            (agent_id, process)
            for agent_id, process in self.stage.processes()
            if not self.models[agent_id].now() & {"running", "paused"}
        ]

    def teardown(self) -> None:
        try:
            self.ask_all("kill", None)
            for model in self.models.values():
                if model.may_be == {"completed"}:
                    eventually(partial(self.is_all_written, model))
                elif model.may_be != {"gone"}:
                    self.written(model)
            self.ask_all("remove", None)
            self.no_process_outlives_its_agent()
            assert all(model.may_be == {"gone"} for model in self.models.values())
            self.stage.attempts.update((each.id, each.attempts) for each in self.models.values())
            self.stage.restarting.update(each.id for each in self.models.values() if each.restarts)
            self.stage.check_base()
        except AssertionError:
            # What one example has left behind is not the next one's fault.
            self.clear()
            raise

    def clear(self) -> None:
        for verb in ("kill", "remove"):
            self.client.batch.run(verb=verb, select=Selector(all=True))

    def answer(self, model: Model, verb: Verb) -> AgentInfo | Answer:
        """Ask; what came of it, an error by its code."""
        try:
            answer = getattr(self.client.agent, verb)(id=model.id)
        except (ConflictError, NotFoundError) as error:
            return error.code
        return answer if isinstance(answer, AgentInfo) else "gone"

    def told(self, model: Model, verb: Verb, answer: AgentInfo | Answer) -> None:
        """Let the model judge an answer, and see that the processes are as it says."""
        model.told(verb, answer.state if isinstance(answer, AgentInfo) else answer)
        if verb == "respawn" and isinstance(answer, AgentInfo):
            self.note_attempt(model)
        if isinstance(answer, AgentInfo):
            self.check_attempt(model, answer.attempt)
            if answer.state == "paused" and not model.is_doomed:
                self.check_still(model, answer.pid or 0)

    def check_attempt(self, model: Model, attempt: int) -> None:
        if model.restarts:
            assert attempt >= model.attempts
            model.attempts = attempt
        assert attempt == model.attempts

    def check_still(self, model: Model, pid: int) -> None:
        """Nothing of a paused agent runs; it may have been about to end when it was stopped."""
        try:
            if is_stopped(pid):
                return
        except (OSError, psutil.NoSuchProcess):
            assert not psutil.pid_exists(pid)
        if model.restarts:
            model.may_be = {"backoff"}
            return
        ended = self.client.agent.wait(id=model.id, deadline_s=5)
        assert ended.state in model.ends
        model.may_be = {ended.state}

    def note_attempt(self, model: Model) -> None:
        model.attempts += 1
        model.is_doomed = False
        model.ends = PROGRAMS[model.kind].ends
        self.given.pop(model.id, None)

    def learn_attempt(self, model: Model) -> None:
        """See whether a respawn nobody was told the outcome of has begun."""
        agent = self.client.agent.get(id=model.id)
        if agent.attempt > model.attempts:
            self.note_attempt(model)
        self.told(model, "get", agent)

    def written(self, model: Model) -> bytes:
        """All that an agent wrote: numbered lines without a gap, anew in each attempt."""
        text = output(self.client, model.id)
        if model.kind in ("writer", "reader"):
            assert len(lines_by_attempt(text)) <= model.attempts
        return text

    def is_all_written(self, model: Model) -> bool:
        """Whether an agent that completed has written, this time, all that it had to."""
        due = LINES if model.kind == "writer" else self.given.get(model.id, 0)
        return not due or lines_by_attempt(self.written(model))[-1] == due

    def of_kind(self, kind: str | None) -> Iterator[Model]:
        return (model for model in self.models.values() if kind in (None, model.kind))

    def labels(self, kind: str | None) -> dict[str, str]:
        return {"example": self.example} | ({} if kind is None else {"kind": kind})


def answer_of(item: BatchItem, verb: Verb) -> Any:
    if item.error is not None:
        return item.error.code
    return "gone" if verb == "remove" else item.agent


def drive(**options: Any) -> None:
    """Run the machine against a server of its own."""
    with (
        running({"server.max_agents": SLOTS}) as server,
        server.client(wait_for_server_s=20) as client,
        Follower(str(server.admin)) as follower,
    ):
        stage = Stage(server, client, follower)
        run_state_machine_as_test(
            partial(Agents, stage),
            settings=settings(
                stateful_step_count=50,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                # Not shrunk: what fails is told in full, at once.
                phases=(Phase.generate,),
                **options,
            ),
        )
        stage.check_events()


@pytest.mark.timeout(120)
def test_any_order_of_requests_and_crashes_is_answered_as_the_model_says() -> None:
    drive(derandomize=True, max_examples=25)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_any_order_of_requests_and_crashes_holds_for_long() -> None:
    drive(max_examples=150)
