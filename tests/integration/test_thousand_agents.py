"""A thousand agents, started and controlled together, and every event of them seen once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from msgspec.structs import replace

from descartesd.client import Client
from descartesd.keys.profile import Profile, load_profile
from descartesd.wire.agent import State
from descartesd.wire.batch import BatchResult, Selector, Verb
from tests.support.agents import SLEEP, all_agents, spec
from tests.support.eventually import eventually
from tests.support.follower import Follower, check_numbers, lives
from tests.support.proxy import Proxy
from tests.support.server import Server, running

AGENTS = 1000
CLIENTS = 4
TEAMS = ["red", "green"]
LIFE: list[State] = ["starting", "running", "paused", "running", "terminated"]
# Seconds each step may take on two slow cores that others use too.
LIMITS_S = {"spawn": 20.0, "list": 3.0, "pause": 15.0, "resume": 10.0, "stop": 15.0, "remove": 15.0}


def through(proxy: Proxy, server: Server) -> Profile:
    admin = load_profile(str(server.admin))
    return replace(admin, endpoints=(f"tcp://127.0.0.1:{proxy.port}",))


@contextmanager
def timed(took: dict[str, float], step: str) -> Iterator[None]:
    """Note how long a block took."""
    began = time.monotonic()
    yield
    took[step] = time.monotonic() - began


def spawn(client: Client, number: int) -> BatchResult:
    """Start one client's share, half of it in each team."""
    specs = [
        spec(*SLEEP, name=f"a{number}-{each}", labels={"team": TEAMS[each % 2]})
        for each in range(AGENTS // CLIENTS)
    ]
    return client.batch.spawn(specs=specs)


def run_by_teams(clients: list[Client], pool: ThreadPoolExecutor, verb: Verb) -> None:
    """Have two clients do it, each to the agents of one team."""

    def run(client: Client, team: str) -> BatchResult:
        return client.batch.run(verb=verb, select=Selector(labels={"team": team}))

    for done in pool.map(run, clients, TEAMS):
        assert (done.succeeded, done.failed) == (AGENTS // 2, 0)


def cut(proxy: Proxy, follower: Follower) -> None:
    """Cut the follower off; it comes back by itself."""
    before = follower.connections
    proxy.cut()
    eventually(lambda: follower.connections > before)


@pytest.mark.timeout(120)
def test_a_thousand_agents_by_four_clients_and_every_event_of_them_seen_once() -> None:
    took: dict[str, float] = {}
    with ExitStack() as stack:
        server = stack.enter_context(running({"server.max_agents": 2 * AGENTS}))
        proxy = stack.enter_context(Proxy(server.port))
        follower = stack.enter_context(Follower(through(proxy, server)))
        clients = [stack.enter_context(server.client()) for _ in range(CLIENTS)]
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))

        with timed(took, "spawn"):
            shares = pool.map(spawn, clients, range(CLIENTS))
            eventually(lambda: len(follower.events) > AGENTS // 10)
            cut(proxy, follower)
            spawned = [item.agent for share in shares for item in share.results]
        with timed(took, "list"):
            agents = all_agents(clients[0])
        with timed(took, "pause"):
            run_by_teams(clients, pool, "pause")
        frozen = {each.state for each in clients[1].agent.list(limit=AGENTS).agents}
        cut(proxy, follower)
        with timed(took, "resume"):
            run_by_teams(clients, pool, "resume")
        with timed(took, "stop"):
            stopped = pool.submit(run_by_teams, clients, pool, "stop")
            eventually(lambda: server_has(clients[3], "terminated"))
            cut(proxy, follower)
            stopped.result()
        with timed(took, "remove"):
            run_by_teams(clients, pool, "remove")
        last = clients[0].server.hello().last_event
        events = follower.until(last)

    assert {agent.id for agent in agents} == {agent.id for agent in spawned if agent}
    assert len(agents) == len({agent.name for agent in agents}) == AGENTS
    assert frozen == {"paused"}
    assert not any(psutil.pid_exists(agent.pid or 0) for agent in agents)
    check_numbers(events)
    seen = lives(events)
    assert seen.keys() == {agent.id for agent in agents}
    # One that ends at once was never seen stopping.
    assert all(
        [[each for each in life if each != "stopping"]] == [LIFE] for (life,) in seen.values()
    )
    removed = Counter(event.agent_id for event in events if event.kind == "removed")
    assert removed == Counter(agent.id for agent in agents)
    assert follower.connections == 4
    assert [step for step, limit_s in LIMITS_S.items() if took[step] > limit_s] == [], took


def server_has(client: Client, state: State) -> bool:
    return client.agent.list(states=[state], limit=1).total > 0
