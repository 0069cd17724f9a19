"""The daemon killed in the middle of its work: its promises hold, and nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from descartesd.client import AsyncClient, Client
from descartesd.errors import AbortedError, DescartesError
from descartesd.keys.profile import ClientSettings, load_profile
from descartesd.wire.agent import AgentInfo, AgentSpec
from tests.support.agents import (
    SLEEP,
    all_agents,
    carrying,
    is_alive,
    is_stopped,
    sh,
    spec,
    times_lost,
    until_output,
    until_state,
)
from tests.support.eventually import eventually
from tests.support.server import Server, alive

KEY = "TEST_KEY"


class Model:
    """Spawns under keys, and what must hold of them whatever was killed meanwhile.

    Every agent writes its key to one file when it runs. Those with an odd number then exit with a
    code of their own, never 0; the others stay.
    """

    def __init__(self, server: Server, directory: Path, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.answers: dict[str, AgentInfo | AbortedError] = {}
        self.wishes: dict[str, str] = {}
        self._runs = directory / "runs"
        self._runs.touch()
        # Another run of these tests on this host has agents too.
        self._name = uuid.uuid4().hex

    def keys(self, kill: int) -> list[str]:
        return [f"{self._name}-{kill}-{number}" for number in range(16)]

    def spec(self, key: str) -> AgentSpec:
        number = int(key.rpartition("-")[2])
        then = f"exit {self.code(key)}" if number % 2 else "exec sleep 300"
        return sh(f"echo {key} >> '{self._runs}'; {then}", env={KEY: key}, labels={"key": key})

    @staticmethod
    def code(key: str) -> int:
        return 1 + int(key.rpartition("-")[2]) % 255

    async def spawn(self, client: AsyncClient, key: str) -> AgentInfo | AbortedError:
        try:
            return await client.agent.spawn(spec=self.spec(key), idem=key, deadline_s=20)
        except AbortedError as error:
            return error

    async def spawn_all(self, client: AsyncClient, keys: list[str]) -> None:
        for key, answer in zip(
            keys, await asyncio.gather(*(self.spawn(client, key) for key in keys)), strict=True
        ):
            self.answers[key] = answer

    async def wish(self, client: AsyncClient, key: str, verb: str) -> None:
        agent = self.answers[key]
        assert isinstance(agent, AgentInfo)
        answer = await getattr(client.agent, verb)(id=agent.id, deadline_s=20)
        assert answer.state == WISHED[verb]
        self.wishes[key] = verb

    def staying(self) -> list[str]:
        """Keys of agents nobody has ended."""
        return [
            key
            for key, answer in self.answers.items()
            if isinstance(answer, AgentInfo)
            and int(key.rpartition("-")[2]) % 2 == 0
            and self.wishes.get(key) not in ("stop", "kill")
        ]

    def wait_for_ends(self, client: Client) -> None:
        """Wait until no agent runs that will exit by itself."""
        for agent in all_agents(client):
            if int(agent.labels["key"].rpartition("-")[2]) % 2:
                client.agent.wait(id=agent.id, deadline_s=10)

    def runs(self) -> Counter[str]:
        return Counter(self._runs.read_text().split())

    async def check_answers(self, client: AsyncClient) -> None:
        """Each key is answered as before, and has run once or never."""
        for key, answer in self.answers.items():
            again = await self.spawn(client, key)
            if isinstance(answer, AgentInfo):
                assert isinstance(again, AgentInfo)
                assert again.id == answer.id
            else:
                assert isinstance(again, AbortedError)
                assert again.message == answer.message

    def check_runs(self) -> None:
        answered = {key for key, answer in self.answers.items() if isinstance(answer, AgentInfo)}
        eventually(lambda: answered <= self.runs().keys())
        runs = self.runs()
        assert max(runs.values()) == 1
        assert runs.keys() == answered

    def check_agents(self, client: Client) -> None:
        """Exactly the answered agents are there, each in its true state."""
        by_key = {agent.labels["key"]: agent for agent in all_agents(client)}
        answered = {
            key: answer.id for key, answer in self.answers.items() if isinstance(answer, AgentInfo)
        }
        assert {key: agent.id for key, agent in by_key.items()} == answered
        for key, agent in by_key.items():
            if int(key.rpartition("-")[2]) % 2:
                ended = client.agent.wait(id=agent.id, deadline_s=5)
                assert ended.state == "failed"
                assert ended.outcome is not None
                assert ended.outcome.exit_code == self.code(key)
            else:
                self.check_staying(agent, self.wishes.get(key, "resume"))

    def check_staying(self, agent: AgentInfo, wish: str) -> None:
        assert agent.state == WISHED[wish]
        processes = carrying("DESCARTES_AGENT_ID", agent.id)
        if wish in ("stop", "kill"):
            assert processes == []
            return
        assert [process.pid for process in processes] == [agent.pid]
        assert is_stopped(processes[0].pid) == (wish == "pause")


WISHED = {"pause": "paused", "resume": "running", "stop": "terminated", "kill": "terminated"}


def client_of(server: Server) -> AsyncClient:
    """Make a client that waits for a server and comes back to it soon."""
    soon = ClientSettings(reconnect_delay_secs=0.02)
    profile = replace(load_profile(str(server.admin)), client=soon)
    return AsyncClient(profile, wait_for_server_s=20)


def kill_and_start(server: Server, *, keeper: int | None = None) -> None:
    """Kill the daemon, and its keeper with it when given; then start the daemon."""
    server.kill()
    if keeper is not None:
        os.kill(keeper, signal.SIGKILL)
    server.start(wait=False)


async def crash_often(model: Model, rounds: int) -> None:
    """Kill the daemon again and again while agents are started, paused, stopped and killed."""
    server = model.server
    async with client_of(server) as client:
        for number in range(rounds):
            keys = model.keys(number)
            staying = model.staying()
            chosen = model.random.sample(staying, min(6, len(staying)))
            async with asyncio.TaskGroup() as group:
                group.create_task(model.spawn_all(client, keys))
                for key in chosen:
                    verb = model.random.choice(("pause", "pause", "resume", "stop", "kill"))
                    group.create_task(model.wish(client, key, verb))
                await asyncio.sleep(model.random.uniform(0, 0.08))
                kill_and_start(server)
                if number % 3 == 2:
                    # Once more, while it starts and takes over.
                    await asyncio.sleep(model.random.uniform(0.1, 0.5))
                    kill_and_start(server)
        await model.check_answers(client)


@pytest.mark.timeout(45)
def test_fault_61_killed_at_any_moment_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    crash_through(tmp_path, seed=61)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(100, 108))
def test_fault_61_holds_for_other_moments_too(tmp_path: Path, seed: int) -> None:
    crash_through(tmp_path, seed=seed)


def crash_through(tmp_path: Path, *, seed: int) -> None:
    with Server({"server.max_agents": 1000}) as server:
        server.start()
        keeper = server.keeper_pid
        model = Model(server, tmp_path, seed=seed)

        asyncio.run(crash_often(model, rounds=9))

        model.check_runs()
        with server.client() as client:
            model.check_agents(client)
            assert client.server.health().reasons == []
        assert server.keeper_pid == keeper
        assert times_lost(server) == {}


async def crash_both_often(model: Model, kills: int) -> None:
    """Kill daemon and keeper again and again while agents are started."""
    async with client_of(model.server) as client:
        for kill in range(kills):
            keys = model.keys(kill)
            keeper = eventually(lambda: model.server.keeper_pid)
            async with asyncio.TaskGroup() as group:
                group.create_task(model.spawn_all(client, keys))
                await asyncio.sleep(model.random.uniform(0.005, 0.06))
                kill_and_start(model.server, keeper=keeper)
        await client.server.health()
        await model.check_answers(client)


def test_fault_61_killed_with_its_keeper_it_calls_each_lost_agent_lost_once(
    tmp_path: Path,
) -> None:
    with Server() as server:
        server.start()
        model = Model(server, tmp_path, seed=62)

        asyncio.run(crash_both_often(model, kills=4))

        with server.client() as client:
            model.wait_for_ends(client)
            agents = all_agents(client)
            lost = [agent for agent in agents if agent.state == "lost"]
            answered = [each for each in model.answers.values() if isinstance(each, AgentInfo)]
            assert {agent.id for agent in agents} == {agent.id for agent in answered}
            assert max(model.runs().values(), default=0) <= 1
            assert times_lost(server) == Counter(agent.id for agent in lost)
            for agent in agents:
                check_end(agent, model.code(agent.labels["key"]))
            left = {pid for key in model.answers for pid in carrying(KEY, key)}
            assert {process.pid for process in left} == {agent.pid for agent in agents if agent.pid}


def check_end(agent: AgentInfo, code: int) -> None:
    """Nobody invents how an agent ended."""
    if agent.state == "lost":
        assert agent.outcome is not None
        assert agent.outcome.reason == "keeper_lost"
        assert agent.outcome.exit_code is None
    elif agent.state == "failed":
        assert agent.outcome is not None
        assert agent.outcome.exit_code == code
    else:
        assert agent.state == "running"


@contextmanager
def frozen(pid: int) -> Iterator[Callable[[], None]]:
    """Stop a process for the time of a block, or until what is given is called."""

    def thaw() -> None:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    try:
        yield thaw
    finally:
        thaw()


@contextmanager
def asking(server: Server) -> Iterator[Callable[..., Future[Any]]]:
    """Ask in the background, over any number of restarts."""
    with server.client(wait_for_server_s=20) as client, ThreadPoolExecutor(4) as pool:

        def ask(verb: str, **params: Any) -> Future[Any]:
            return pool.submit(getattr(client.agent, verb), **params)

        yield ask


@pytest.mark.parametrize("thawed", ["before the restart", "after the restart"])
def test_fault_61_spawn_the_keeper_has_not_read_yet_happens_once_or_never(
    server: Server, thawed: str
) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    mark = uuid.uuid4().hex
    params = {"spec": spec(*SLEEP, name="waiting", env={KEY: mark}), "idem": "key-1"}
    with asking(server) as ask, frozen(keeper) as thaw:
        answer = ask("spawn", **params)
        with server.client() as client:
            until_state(client, "waiting", "starting")
        server.kill()
        if thawed == "before the restart":
            thaw()
        server.start(wait=False)
        thaw()
        first = answer.exception() or answer.result()
        second = (again := ask("spawn", **params)).exception() or again.result()
        with server.client() as client:
            listed = all_agents(client)

        processes = carrying(KEY, mark)
        if isinstance(first, AgentInfo):
            assert second.id == first.id
            assert [(agent.id, agent.state) for agent in listed] == [(first.id, "running")]
            assert [process.pid for process in processes] == [listed[0].pid]
        else:
            assert isinstance(first, AbortedError)
            assert second.message == first.message
            assert listed == []
            assert processes == []


def test_fault_61_spawn_whose_daemon_and_keeper_died_is_aborted_and_its_name_free(
    server: Server,
) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    params = {"spec": spec(*SLEEP, name="waiting"), "idem": "key-1"}
    with asking(server) as ask, frozen(keeper):
        answer = ask("spawn", **params)
        with server.client() as client:
            until_state(client, "waiting", "starting")
        kill_and_start(server, keeper=keeper)
        first = answer.exception()
        second = ask("spawn", **params).exception()
        with server.client() as client:
            listed = all_agents(client)
            agent = client.agent.spawn(spec=spec(*SLEEP, name="waiting"))

    assert isinstance(first, AbortedError)
    assert isinstance(second, AbortedError)
    assert second.message == first.message
    assert listed == []
    assert agent.state == "running"


def test_fault_61_spawn_whose_keeper_alone_died_is_aborted_and_leaves_no_process(
    server: Server,
) -> None:
    mark = uuid.uuid4().hex
    with asking(server) as ask:
        keeper = server.keeper_pid
        assert keeper is not None
        answers = [
            ask("spawn", spec=spec(*SLEEP, env={KEY: mark}), idem=f"key-{number}")
            for number in range(40)
        ]
        eventually(lambda: any(answer.done() for answer in answers))
        os.kill(keeper, signal.SIGKILL)
        results = [answer.exception() or answer.result() for answer in answers]
        with server.client() as client:
            eventually(lambda: client.server.health().keeper.pid not in (None, keeper))
            eventually(lambda: any(agent.state == "lost" for agent in all_agents(client)))
            agents = all_agents(client)

    assert all(isinstance(each, AgentInfo | DescartesError) for each in results)
    assert {agent.id for agent in agents} == {
        result.id for result in results if isinstance(result, AgentInfo)
    }
    assert {agent.state for agent in agents} <= {"lost", "running"}
    running = {agent.pid for agent in agents if agent.state == "running"}
    assert {process.pid for process in carrying(KEY, mark)} == running


@pytest.mark.parametrize(
    ("verb", "thawed"),
    [
        ("pause", "before the restart"),
        ("stop", "after the restart"),
        ("kill", "before the restart"),
    ],
)
def test_fault_61_verb_the_keeper_has_not_read_yet_is_carried_out_over_the_crash(
    server: Server, verb: str, thawed: str
) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    with asking(server) as ask:
        agent: AgentInfo = ask(
            "spawn", spec=sh("trap 'exit 7' TERM; echo ready; read go", stdin="pipe")
        ).result()
        with server.client() as client:
            until_output(client, agent.id, b"ready")
        assert agent.pid is not None
        leader = psutil.Process(agent.pid)
        with frozen(keeper) as thaw:
            answer = ask(verb, id=agent.id)
            with server.client() as client:
                # Answered in order on another connection: the daemon has had time to ask.
                client.server.health()
            server.kill()
            if thawed == "before the restart":
                thaw()
            server.start(wait=False)
            thaw()
            told: AgentInfo = answer.result()

    assert told.state == WISHED[verb]
    if verb == "pause":
        assert is_alive(leader)
        return
    assert not is_alive(leader)
    assert told.outcome is not None
    if verb == "stop":
        assert (told.outcome.reason, told.outcome.exit_code) == ("stopped", 7)
    else:
        assert (told.outcome.reason, told.outcome.signal) == ("killed", signal.SIGKILL)
