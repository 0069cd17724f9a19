"""The network is away for a while, under load: nothing is lost, nothing doubled, and it is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from msgspec.structs import replace

from descartesd.client import Client
from descartesd.errors import DeadlineExceededError, DescartesError, UnavailableError
from descartesd.keys.profile import ClientSettings, Profile, load_profile
from descartesd.wire.agent import AgentInfo, AgentSpec
from tests.support.agents import all_agents, output, python, sh, spec
from tests.support.eventually import eventually
from tests.support.follower import Follower, check_numbers, lives
from tests.support.programs import LINE, lines_by_attempt
from tests.support.proxy import Proxy
from tests.support.server import Server, running

QUICK = ClientSettings(
    heartbeat_interval_secs=0.2,
    reconnect_delay_secs=0.02,
    connection_timeout_secs=0.5,
    circuit_reset_secs=0.5,
)
# Between two requests of one client.
PACE_S = 0.02
# A line each hundredth of a second, until there is something to read.
TALKER = f"""
import itertools, os, select
for number in itertools.count():
    os.write(1, {LINE!r} % number)
    if select.select([0], [], [], 0.01)[0]:
        break
"""


class Load:
    """What clients do over a network, each in a thread of its own, and what they were told."""

    def __init__(self, server: Server, profile: Profile, runs: Path) -> None:
        self.server = server
        self.profile = profile
        self.is_over = Event()
        # How often each worker came to an end with something, and what its client said.
        self.steps: Counter[str] = Counter()
        self.news: dict[str, list[str]] = {}
        self.clients: dict[str, Client] = {}
        # Agents by key; and what was said of the keys that got none at once.
        self.spawned: dict[str, str] = {}
        self.refused: dict[str, DescartesError] = {}
        self.written = bytearray()
        self.polled = bytearray()
        self.followed = bytearray()
        self._runs = runs

    def client(self, name: str, **options: Any) -> Client:
        """Make a client of the network's far side; each worker has its own."""
        news = self.news[name] = []
        self.clients[name] = Client(
            self.profile, on_connection=lambda what, _endpoint: news.append(what), **options
        )
        return self.clients[name]

    def spec(self, key: str) -> AgentSpec:
        return sh(f"echo {key} >> '{self._runs}'; exec sleep 300", name=key)

    def turns(self, name: str) -> Iterator[int]:
        """Count a worker's steps until all is over."""
        while not self.is_over.wait(PACE_S):
            yield self.steps[name]
            self.steps[name] += 1

    def spawn_patiently(self, name: str) -> None:
        """Start agents; whoever waits for the network is never told of its absence."""
        with self.client(name, wait_for_server_s=60) as client:
            for number in self.turns(name):
                key = f"{name}-{number}"
                self.spawned[key] = client.agent.spawn(spec=self.spec(key), idem=key).id

    def spawn_hastily(self, name: str) -> None:
        """Start agents, each in half a second or not at all."""
        with self.client(name, timeout_s=0.5, connect_timeout_s=0.5) as client:
            for number in self.turns(name):
                key = f"{name}-{number}"
                try:
                    self.spawned[key] = client.agent.spawn(spec=self.spec(key), idem=key).id
                except DescartesError as error:
                    self.refused[key] = error

    def write(self, name: str, agent: AgentInfo) -> None:
        """Write numbered lines to an agent."""
        with self.client(name, wait_for_server_s=60) as client:
            for number in self.turns(name):
                self.written += LINE % number
                client.write(agent.id, LINE % number)

    def poll(self, name: str, agent: AgentInfo) -> None:
        """Read an agent's output piece by piece."""
        with self.client(name, wait_for_server_s=60) as client:
            for _ in self.turns(name):
                self.polled += client.agent.output(id=agent.id, offset=len(self.polled)).data

    def follow(self, name: str, agent: AgentInfo) -> None:
        """Follow an agent's output to its end."""
        with (
            self.client(name, wait_for_server_s=60) as client,
            client.agent.follow(id=agent.id, streams=["stdout"]) as chunks,
        ):
            for chunk in chunks:
                assert chunk.offset == len(self.followed)
                self.followed += chunk.data
                self.steps[name] += 1

    def goes_on(self, timeout: float) -> None:
        """Wait until every worker has done a few things more."""
        goals = {name: self.steps[name] + 5 for name in self.news}
        eventually(
            lambda: all(self.steps[name] >= goal for name, goal in goals.items()), timeout=timeout
        )

    def all_heard(self, what: str) -> bool:
        """Whether the last that each client told of its connection is this."""
        return all(news[-1:] == [what] for news in self.news.values())

    def settle(self, client: Client) -> None:
        """Ask again for what nobody knows whether it happened."""
        for key, error in self.refused.items():
            if not was_never_sent(error):
                self.spawned[key] = client.agent.spawn(spec=self.spec(key), idem=key).id


def was_never_sent(error: DescartesError) -> bool:
    return (error.details or {}).get("sent") is False


@contextmanager
def working(load: Load, jobs: dict[str, Callable[[str], None]]) -> Iterator[list[Future[None]]]:
    """Have every job done in a thread of its own; what one raises is raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            yield (futures := [pool.submit(job, name) for name, job in jobs.items()])
        finally:
            load.is_over.set()
    for future in futures:
        future.result()


def away_for(seconds: float, proxy: Proxy, load: Load) -> None:
    """Swallow all bytes; every client finds out by itself, and goes on when the network is back."""
    until = time.monotonic() + seconds
    proxy.mode = "half-open"
    eventually(lambda: load.all_heard("lost"), timeout=seconds)
    assert all(client.state != "up" for client in load.clients.values())
    eventually(lambda: time.monotonic() > until, timeout=seconds + 1)
    proxy.mode = "delay"


def cut_under_load(directory: Path, settings: ClientSettings, *, seconds: float) -> None:
    """Cut the network for so long while clients start, write, read and follow."""
    runs = directory / "runs"
    runs.touch()
    with (
        running({"server.max_agents": 10_000}) as server,
        server.client() as near,
        Proxy(server.port, delay_s=0.03) as proxy,
    ):
        far = replace(
            load_profile(str(server.admin)),
            endpoints=(f"tcp://127.0.0.1:{proxy.port}",),
            client=settings,
        )
        # From far away: when the cut comes, requests and replies are on their way.
        proxy.mode = "delay"
        load = Load(server, far, runs)
        reader = near.agent.spawn(spec=spec("cat", stdin="pipe"))
        talker = near.agent.spawn(spec=python(TALKER, stdin="pipe"))
        jobs: dict[str, Callable[[str], None]] = {
            "patient": load.spawn_patiently,
            "second": load.spawn_patiently,
            "hasty": load.spawn_hastily,
            "writer": lambda name: load.write(name, reader),
            "poller": lambda name: load.poll(name, talker),
            "follower": lambda name: load.follow(name, talker),
        }
        with Follower(far) as events:
            with working(load, jobs):
                load.goes_on(timeout=10)
                away_for(seconds, proxy, load)
                eventually(lambda: load.all_heard("up"), timeout=40)
                load.goes_on(timeout=10)
                near.write(talker.id, b"enough")
                near.agent.wait(id=talker.id)
            load.settle(near)

            check_told(load)
            check_agents(load, near, runs, {reader.id, talker.id})
            check_bytes(load, near, reader, talker)
            check_events(events, near, load, talker.id)


def check_told(load: Load) -> None:
    """Each client knew, and each error says what happened and what to do."""
    assert all(news[:2] == ["up", "lost"] for news in load.news.values())
    assert load.refused
    endpoint = load.profile.endpoints[0]
    for key, error in load.refused.items():
        assert error.retryable, error
        assert error.hint, error
        assert "agent.spawn" in error.message or endpoint in error.message, error
        assert isinstance(error, DeadlineExceededError | UnavailableError)
        if not was_never_sent(error):
            assert (error.details or {})["idem"] == key
            assert key in error.hint


def check_agents(load: Load, near: Client, runs: Path, others: set[str]) -> None:
    """Every key has its agent, which has run once; what was never sent has none."""
    agents = {agent.id: agent for agent in all_agents(near) if agent.id not in others}
    assert {agent.name: agent.id for agent in agents.values()} == load.spawned
    assert {agent.state for agent in agents.values()} == {"running"}
    eventually(lambda: len(runs.read_text().split()) >= len(agents))
    assert Counter(runs.read_text().split()) == Counter(list(load.spawned))


def check_bytes(load: Load, near: Client, reader: AgentInfo, talker: AgentInfo) -> None:
    """Every byte arrived once, in either direction."""
    eventually(lambda: len(output(near, reader.id)) >= len(load.written))
    assert output(near, reader.id) == bytes(load.written)
    said = output(near, talker.id)
    assert len(lines_by_attempt(said)) == 1
    assert bytes(load.followed) == said
    assert said.startswith(load.polled)


def check_events(events: Follower, near: Client, load: Load, talker: str) -> None:
    """Every event was seen once."""
    seen = events.until(near.server.hello().last_event)
    check_numbers(seen)
    found = lives(seen)
    assert found.pop(talker) == [["starting", "running", "completed"]]
    assert found.keys() >= set(load.spawned.values())
    assert all(life == [["starting", "running"]] for life in found.values())
    assert events.connections > 1


@pytest.mark.timeout(60)
def test_a_cut_of_three_seconds_loses_nothing_doubles_nothing_and_is_told(tmp_path: Path) -> None:
    cut_under_load(tmp_path, QUICK, seconds=3)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cut_of_twenty_seconds_loses_nothing_doubles_nothing_and_is_told(tmp_path: Path) -> None:
    cut_under_load(tmp_path, ClientSettings(), seconds=20)
