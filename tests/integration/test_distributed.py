"""Many clients of one server: under load, over failures, and with every kind of request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Barrier
from typing import Any, TypeVar

import pytest

from descartesd.client import Client
from descartesd.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from descartesd.wire.agent import AgentInfo, AgentSpawn, StopSpec
from descartesd.wire.batch import Selector
from descartesd.wire.methods import AGENT_SPAWN
from tests.support.agents import (
    SLEEP,
    all_agents,
    carrying,
    is_stopped,
    left_empty,
    output,
    sh,
    spec,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.server import Server, alive, running

T = TypeVar("T")
ROLES = ("admin", "operator", "operator", "observer", "observer")


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator over CURVE; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """Do all of these at the same time, each in a thread of its own."""
    gate = Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        gate.wait(timeout=10)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(begin, works))


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    """Stop a process for the time of a block."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_multiple_clients_single_server(shared_server: Server, client: Client) -> None:
    profiles = [shared_server.issue(f"peer-{number}", role) for number, role in enumerate(ROLES)]
    agent = client.agent.spawn(spec=spec(*SLEEP))
    before = client.server.stats().clients

    with ExitStack() as stack:
        peers = [stack.enter_context(shared_server.client(profile)) for profile in profiles]
        healths = at_once([peer.server.health for peer in peers])
        hellos = at_once([peer.server.hello for peer in peers])
        listed = at_once([peer.agent.list for peer in peers])
        counted = client.server.stats().clients

    assert [health.status for health in healths] == ["ok"] * len(peers)
    assert [hello.identity.name for hello in hellos] == [profile.stem for profile in profiles]
    assert [hello.identity.role for hello in hellos] == list(ROLES)
    assert len({hello.identity.id for hello in hellos}) == len(peers)
    assert [[each.id for each in page.agents] for page in listed] == [[agent.id]] * len(peers)
    assert counted == before + len(peers)


def test_agent_spawning_under_load(client: Client) -> None:
    count = 100
    began = time.monotonic()

    def spawn(number: int) -> AgentInfo:
        return client.agent.spawn(spec=spec(*SLEEP, labels={"number": str(number)}), deadline_s=30)

    with ThreadPoolExecutor(count) as pool:
        answers = pool.map(spawn, range(count))
        # Others are served meanwhile.
        assert client.server.health(deadline_s=5).status == "ok"
        agents = list(answers)

    assert time.monotonic() - began < 30
    assert [agent.labels["number"] for agent in agents] == [str(each) for each in range(count)]
    assert {agent.state for agent in agents} == {"running"}
    assert len({agent.id for agent in agents}) == len({agent.name for agent in agents}) == count
    assert len({agent.pid for agent in agents}) == count
    assert all(alive(agent.pid or 0) for agent in agents)
    assert {agent.id for agent in all_agents(client)} == {agent.id for agent in agents}


def test_concurrent_client_operations(shared_server: Server, client: Client) -> None:
    profiles = [shared_server.issue(f"worker-{number}", "operator") for number in range(3)]

    def work(peer: Client, name: str) -> tuple[AgentInfo, bytes]:
        kept, ended = at_once([partial(spawn_reader, peer, name)] * 2)
        peer.agent.pause(id=kept.id)
        for number in range(20):
            peer.write(ended.id, f"{name} {number}\n".encode())
        peer.agent.close_stdin(id=ended.id)
        assert peer.agent.wait(id=ended.id).state == "completed"
        assert kept.id in {agent.id for agent in peer.agent.list(states=["paused"]).agents}
        peer.agent.resume(id=kept.id)
        stopped = peer.agent.stop(id=kept.id)
        return stopped, output(peer, ended.id)

    with ExitStack() as stack:
        peers = [stack.enter_context(shared_server.client(profile)) for profile in profiles]
        names = [profile.stem for profile in profiles]
        done = at_once([partial(work, *pair) for pair in zip(peers, names, strict=True)])

    agents = all_agents(client)
    assert len(agents) == 2 * len(peers)
    assert len({agent.owner for agent in agents}) == len(peers)
    assert all(agent.name.startswith(agent.labels["of"]) for agent in agents)
    for name, (stopped, text) in zip(names, done, strict=True):
        assert stopped.labels == {"of": name}
        assert stopped.state == "terminated"
        assert text == b"".join(f"{name} {number}\n".encode() for number in range(20))


def spawn_reader(peer: Client, of: str) -> AgentInfo:
    name = f"{of}-{os.urandom(4).hex()}"
    agent = peer.agent.spawn(spec=spec("cat", name=name, stdin="pipe", labels={"of": of}))
    assert agent.name == name
    return agent


def test_network_failure_and_reconnection() -> None:
    news: list[str] = []
    with (
        running() as server,
        Client(
            str(server.admin),
            connect_timeout_s=0.5,
            on_connection=lambda what, _endpoint: news.append(what),
        ) as client,
        server.client(wait_for_server_s=20) as patient,
        ThreadPoolExecutor(1) as pool,
    ):
        server_id = client.server.hello().server_id
        started_at = client.server.stats().started_at
        server.stop()

        with pytest.raises(UnavailableError, match=server.endpoint) as caught:
            client.server.health()
        waiting = pool.submit(patient.server.hello)
        server.start()

        # Nobody connects anew: the clients come back by themselves.
        assert waiting.result(timeout=10).server_id == server_id
        assert client.server.health().status == "ok"
        assert client.server.stats().started_at > started_at
        assert client.agent.spawn(spec=spec(*SLEEP)).state == "running"
    assert caught.value.retryable
    assert news[:3] == ["up", "lost", "up"]


def test_timeout_handling(shared_server: Server, client: Client) -> None:
    request = AgentSpawn(spec=spec(*SLEEP, name="late"))
    began = time.monotonic()

    with frozen(shared_server.keeper_pid):
        with pytest.raises(DeadlineExceededError) as caught:
            client.call(AGENT_SPAWN, request, deadline_s=0.5)
        waited = time.monotonic() - began
        # Whatever comes late, each answer is that of its own request.
        for number in range(10):
            assert client.server.health().status in ("ok", "degraded")
            with pytest.raises(NotFoundError, match=f"nobody-{number}"):
                client.agent.get(id=f"nobody-{number}")
    late = client.call(AGENT_SPAWN, request, idem=key_of(caught.value))

    assert 0.4 < waited < 2
    assert caught.value.retryable
    assert late.name == "late"
    assert late == client.agent.get(id="late")
    assert [agent.id for agent in all_agents(client)] == [late.id]
    assert eventually(lambda: pids_of(late)) == [late.pid]
    assert client.call(AGENT_SPAWN, request, idem=key_of(caught.value)).id == late.id


def pids_of(agent: AgentInfo) -> list[int]:
    # In the middle of execve(2) a process shows no environment.
    return [process.pid for process in carrying("DESCARTES_AGENT_ID", agent.id)]


def key_of(error: DeadlineExceededError) -> str:
    return str((error.details or {})["idem"])


def test_batch_operations(client: Client) -> None:
    specs = [spec(*SLEEP, name=f"member-{number}", labels={"in": "batch"}) for number in range(3)]
    outsider = client.agent.spawn(spec=spec(*SLEEP))
    ours = Selector(labels={"in": "batch"})

    spawned = client.batch.spawn(specs=[*specs, spec("/nowhere/to/be/found")])
    asked = client.batch.run(verb="get", ids=["member-0", "nobody", "member-2"])
    trial = client.batch.run(verb="stop", select=ours, dry_run=True)
    paused = client.batch.run(verb="pause", select=ours)
    stopped_pids = [is_stopped(pid) for pid in pids(paused.results)]
    resumed = client.batch.run(verb="resume", select=Selector(labels={"in": "batch"}))
    refused = client.batch.run(verb="remove", select=ours)
    stopped = client.batch.run(verb="stop", select=ours, params={"grace_s": 1})
    removed = client.batch.run(verb="remove", ids=[item.id for item in stopped.results])

    assert [item.ok for item in spawned.results] == [True, True, True, False]
    assert (spawned.succeeded, spawned.failed) == (3, 1)
    assert spawned.results[3].error is not None
    assert [(item.id, item.ok) for item in asked.results] == [
        ("member-0", True),
        ("nobody", False),
        ("member-2", True),
    ]
    assert asked.results[1].error is not None
    assert asked.results[1].error.code == "not_found"
    assert states(trial.results) == ["running"] * 3
    assert states(paused.results) == ["paused"] * 3
    assert stopped_pids == [True] * 3
    assert states(resumed.results) == ["running"] * 3
    assert (refused.succeeded, refused.failed) == (0, 3)
    assert {item.error.code for item in refused.results if item.error} == {"conflict"}
    assert states(stopped.results) == ["terminated"] * 3
    assert removed.succeeded == 3
    assert [(agent.id, agent.state) for agent in all_agents(client)] == [(outsider.id, "running")]


def states(items: Sequence[Any]) -> list[str]:
    return [str(item.error) if item.agent is None else item.agent.state for item in items]


def pids(items: Sequence[Any]) -> list[int]:
    return [item.agent.pid for item in items]


def test_output_querying(client: Client) -> None:
    agent = client.agent.spawn(
        spec=sh("seq -f 'line %03g' 1 100; echo a warning >&2; read go; echo last", stdin="pipe")
    )
    until_output(client, agent.id, b"line 100\n")

    first = client.agent.output(id=agent.id, lines=10)
    then = client.agent.output(id=agent.id, lines=10, offset=first.next_offset)
    tail = client.agent.output(id=agent.id, tail=2)
    tens = client.agent.output(id=agent.id, regex="0$", lines=3)
    middle = client.agent.output(id=agent.id, offset=9, limit=9)
    warning = until_stderr(client, agent.id)
    client.write(agent.id, b"\n")
    client.agent.wait(id=agent.id)

    assert first.data == numbered(range(1, 11))
    assert then.data == numbered(range(11, 21))
    assert tail.data == numbered(range(99, 101))
    assert tens.data == numbered((10, 20, 30))
    assert middle.data == numbered([2])
    assert not first.eof
    assert warning == b"a warning\n"
    with client.agent.follow(id=agent.id, streams=["stdout"], tail=1) as chunks:
        assert b"".join(chunk.data for chunk in chunks) == b"last\n"
    whole = client.agent.output(id=agent.id)
    assert whole.eof
    assert whole.data == numbered(range(1, 101)) + b"last\n"


def numbered(numbers: Any) -> bytes:
    return b"".join(b"line %03d\n" % number for number in numbers)


def until_stderr(client: Client, agent_id: str) -> bytes:
    with client.agent.follow(id=agent_id, streams=["stderr"]) as chunks:
        return next(chunks).data


def test_server_statistics(client: Client) -> None:
    before = client.server.stats()
    for _ in range(7):
        client.server.health()
    agents = [client.agent.spawn(spec=spec(*SLEEP)) for _ in range(3)]
    with pytest.raises(InvalidArgumentError):
        client.agent.spawn(spec=spec("/nowhere/to/be/found"))
    for _ in range(2):
        with pytest.raises(NotFoundError):
            client.agent.get(id="nobody")
    client.agent.kill(id=agents[0].id)
    after = client.server.stats()

    def grown(method: str) -> tuple[int, int, int]:
        """Requests, failures and answers timed, of one method in between."""
        now, then = after.methods[method], before.methods.get(method)
        counted = sum(now.latency.counts) - (sum(then.latency.counts) if then else 0)
        if then is None:
            return now.requests, now.failures, counted
        return now.requests - then.requests, now.failures - then.failures, counted

    assert grown("server.health") == (7, 0, 7)
    assert grown("agent.spawn") == (4, 1, 4)
    assert grown("agent.get") == (2, 2, 2)
    assert grown("agent.kill") == (1, 0, 1)
    assert after.spawns.requested - before.spawns.requested == 4
    assert after.spawns.succeeded - before.spawns.succeeded == 3
    assert after.spawns.failed - before.spawns.failed == 1
    assert after.failures - before.failures == 3
    assert after.errors["not_found"] - before.errors.get("not_found", 0) == 2
    assert after.errors["invalid_argument"] - before.errors.get("invalid_argument", 0) == 1
    assert (after.agents["running"], after.agents["terminated"]) == (2, 1)
    assert after.bytes_received > before.bytes_received
    assert after.bytes_sent > before.bytes_sent
    assert after.uptime_s > before.uptime_s
    assert 0 < after.methods["server.health"].latency.p50_s < 1


def test_custom_actions(shared_server: Server, client: Client) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP, env={"COLOUR": "blue"}, stop=StopSpec(grace_s=1)))
    given = {"action": "test", "data": "example", "numbers": [1, 2.5, None], "bytes": b"\0\xff"}

    table = {action.name: action for action in client.action.list().actions}
    echo = client.action.run(name="echo", params=given)
    told = client.action.run(name="get_env", agent=agent.name)
    with shared_server.client(shared_server.issue("watcher", "observer")) as observer:
        pong = observer.action.run(name="ping")

    assert {"echo", "ping", "get_env"} <= table.keys()
    assert (table["get_env"].needs_agent, table["ping"].needs_agent) == (True, False)
    assert (echo.action, echo.result, echo.agent_id) == ("echo", given, None)
    assert pong.result == "pong"
    assert told.agent_id == agent.id
    assert (told.result["status"], told.result["env"]) == ("running", ["COLOUR"])
    with pytest.raises(NotFoundError, match="custom_test"):
        client.action.run(name="custom_test", params=given)
    with pytest.raises(InvalidArgumentError, match="agent"):
        client.action.run(name="get_env")
    with pytest.raises(InvalidArgumentError, match="loud"):
        client.action.run(name="ping", params={"loud": True})
