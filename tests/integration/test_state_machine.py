"""Whatever is asked in whatever order, over crashes: a small model tells what may be answered."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, get_args

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

from descartesd.agents.lifecycle import ENDED
from descartesd.client import Client
from descartesd.errors import AbortedError, ConflictError, NotFoundError
from descartesd.wire.agent import AgentInfo, AgentSpec, State, StopSpec
from descartesd.wire.batch import BatchItem, Selector
from tests.support.agents import (
    SLEEP,
    descriptors,
    is_alive,
    is_stopped,
    keeper_fds,
    output,
    python,
    sh,
    spec,
)
from tests.support.eventually import eventually
from tests.support.follower import Follower, check_numbers, lives
from tests.support.model import Answer, Model, Verb
from tests.support.server import Server, running

# Every process of these agents has it, and no process of another test.
MARK = "TEST_MARK"
LINE = b"line %06d\n"
LINES = 150
WRITER = f"""
import os, time
for number in range({LINES}):
    os.write(1, {LINE!r} % number)
    time.sleep(0.003)
"""
# A tool in a session of its own, and a process nobody is the parent of any more.
FAMILY = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(300)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""
# In one example; a start takes as long as hundreds of requests.
CRASHES = 1
SOON = "sleep 0.05"


class Kind(NamedTuple):
    """A program, and the states it may come to by itself."""

    spec: AgentSpec
    ends: frozenset[State] = frozenset()


KINDS = {
    "sleeper": Kind(spec(*SLEEP)),
    "stubborn": Kind(sh("trap '' TERM; exec sleep 300")),
    "family": Kind(python(FAMILY)),
    "completing": Kind(sh(SOON), frozenset(("completed",))),
    "failing": Kind(sh(f"{SOON}; exit 3"), frozenset(("failed",))),
    "crashing": Kind(sh(f"{SOON}; kill -SEGV $$"), frozenset(("failed",))),
    "writer": Kind(python(WRITER), frozenset(("completed",))),
    "reader": Kind(spec("cat", stdin="pipe")),
}
VERBS: list[Verb] = ["get", "pause", "resume", "stop", "kill", "respawn", "remove"]


class Stage:
    """What all examples share: a server, a client, and a follower of everything that happens."""

    def __init__(self, server: Server, client: Client, follower: Follower) -> None:
        self.server = server
        self.client = client
        self.follower = follower
        self.mark = uuid.uuid4().hex
        self.pool = ThreadPoolExecutor(1)
        # Once everything has been used, what stays open can be told.
        agent = client.agent.spawn(spec=sh("echo used"))
        client.agent.wait(id=agent.id)
        client.agent.output(id=agent.id)
        client.agent.remove(id=agent.id)
        # Only this client and the follower.
        eventually(lambda: client.server.stats().clients == 2)
        # SQLite keeps the descriptor of a connection it has closed, for the next one, while another
        # has locked the file (https://www.sqlite.org/src/file/src/os_unix.c).
        registry = server.directory / "state" / "registry.sqlite"
        self.base = self.held() | Counter({str(registry): 2})

    def held(self) -> Counter[str]:
        """What the server holds: descriptors of daemon and keeper, files of output."""
        assert self.server.process is not None
        daemon = descriptors(self.server.process.pid)
        files = os.listdir(self.server.directory / "state" / "output")
        return Counter([*daemon, *keeper_fds(self.server), *files])

    def is_back_at_base(self) -> bool:
        """Whether nothing is held that was not held at the beginning."""
        return self.held() <= self.base

    def processes(self) -> list[tuple[str, psutil.Process]]:
        """Every process that is any agent's, with the agent's id."""
        found = []
        for process in psutil.process_iter():
            try:
                with open(f"/proc/{process.pid}/environ", "rb") as file:
                    environ = dict(
                        each.partition(b"=")[::2] for each in file.read().split(b"\0") if each
                    )
            except OSError:
                continue
            if environ.get(MARK.encode()) == self.mark.encode() and is_alive(process):
                found.append((environ[b"DESCARTES_AGENT_ID"].decode(), process))
        return found

    def check_events(self) -> None:
        """Every attempt of every agent came to one end, told once, live and from the journal."""
        last = self.client.server.hello().last_event
        seen = self.follower.until(last)
        check_numbers(seen)
        for agent_id, attempts in lives(seen).items():
            assert attempts[-1][-1] in ENDED, (agent_id, attempts)
        with Follower(str(self.server.admin)) as again:
            assert again.until(last)[:last] == seen[:last]


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

    @rule(target=agents, kind=st.sampled_from(sorted(KINDS)))
    def spawn(self, kind: str) -> Model:
        wanted = AgentSpec(
            command=KINDS[kind].spec.command,
            stdin=KINDS[kind].spec.stdin,
            env={MARK: self.stage.mark},
            labels={"example": self.example, "kind": kind},
            stop=StopSpec(grace_s=0.2),
        )
        agent = self.client.agent.spawn(spec=wanted)
        model = self.models[agent.id] = Model(agent.id, kind, KINDS[kind].ends)
        assert agent.state in model.now()
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
        asked = self.stage.pool.submit(self.answer, model, verb)
        self.crash()
        try:
            answer = asked.result(timeout=20)
        except AbortedError:
            model.heard_nothing(verb)
        else:
            self.told(model, verb, answer)

    @precondition(lambda self: self.crashes < CRASHES)
    @rule()
    def crash(self) -> None:
        self.crashes += 1
        self.stage.server.crash_and_restart()

    @rule(verb=st.sampled_from(VERBS), kind=st.sampled_from([None, *sorted(KINDS)]))
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
        model.may_be &= {"running", "paused"}
        assert model.may_be, "an agent that has ended took a signal"
        if signal == "CONT":
            model.may_be = {"running"}
        model.is_doomed |= signal == "KILL"

    @rule(model=agents)
    def settle(self, model: Model) -> None:
        if "paused" in model.may_be or not (model.ends or model.is_doomed):
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
        if "gone" in model.may_be:
            return
        self.client.agent.close_stdin(id=model.id)
        model.ends = frozenset(("completed",))

    @rule(
        states=st.sets(st.sampled_from(get_args(State)), max_size=3),
        kind=st.sampled_from([None, *sorted(KINDS)]),
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
        assert len(listed) == len(listed.keys() & self.models.keys())

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
            assert {state for model in self.models.values() for state in model.may_be} <= {"gone"}
            try:
                eventually(self.stage.is_back_at_base)
            finally:
                assert self.stage.held() - self.stage.base == Counter()
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
            model.attempts += 1
            model.is_doomed = False
            model.ends = KINDS[model.kind].ends
            self.given.pop(model.id, None)
        if isinstance(answer, AgentInfo):
            assert answer.attempt == model.attempts
            if answer.state == "paused" and not model.is_doomed:
                assert answer.pid is not None
                assert is_stopped(answer.pid)

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


def lines_by_attempt(text: bytes) -> list[int]:
    """How many whole lines each attempt that has written wrote; at its end one may be torn."""
    counts = []
    at = 0
    while at < len(text):
        number = 0
        while text.startswith(LINE % number, at):
            at += len(LINE % number)
            number += 1
        at += torn(text[at:], LINE % number)
        counts.append(number)
    return counts


def torn(text: bytes, line: bytes) -> int:
    """How much of a line stands before the first line of the next attempt, or before the end."""
    for size in range(len(line)):
        if text.startswith(line[:size]) and (len(text) == size or text.startswith(LINE % 0, size)):
            return size
    raise AssertionError(f"{text[:40]!r} follows where {line!r} was due")


def answer_of(item: BatchItem, verb: Verb) -> Any:
    if item.error is not None:
        return item.error.code
    return "gone" if verb == "remove" else item.agent


def drive(make: Callable[[Stage], RuleBasedStateMachine], **options: Any) -> None:
    """Run the machine against a server of its own."""
    with (
        running({"server.max_agents": 1000}) as server,
        server.client(wait_for_server_s=20) as client,
        Follower(str(server.admin)) as follower,
    ):
        stage = Stage(server, client, follower)
        run_state_machine_as_test(
            partial(make, stage),
            settings=settings(
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                **options,
            ),
        )
        stage.check_events()


@pytest.mark.timeout(120)
def test_any_order_of_requests_and_crashes_is_answered_as_the_model_says() -> None:
    # Not shrunk: what fails is told in full, at once.
    drive(
        Agents,
        derandomize=True,
        max_examples=25,
        stateful_step_count=50,
        phases=(Phase.generate,),
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_any_order_of_requests_and_crashes_holds_for_long() -> None:
    drive(Agents, max_examples=150, stateful_step_count=50)
