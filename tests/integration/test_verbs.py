"""The verbs that make, find and introduce, over CURVE and real processes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import zmq

from descartesd.client import Client
from descartesd.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from descartesd.keys.profile import Profile
from descartesd.wire.agent import AgentInfo, AgentSpawn, Limits
from descartesd.wire.methods import AGENT_SPAWN, METHODS
from tests.support.agents import (
    SLEEP,
    all_agents,
    left_empty,
    sh,
    spec,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.server import Server, running


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def test_spawn_answers_when_the_program_runs(client: Client) -> None:
    agent = client.agent.spawn(
        spec=spec(*SLEEP, name="builder", labels={"team": "red"}, env={"A": "1"})
    )

    assert (agent.state, agent.name, agent.labels) == ("running", "builder", {"team": "red"})
    assert agent.pid is not None
    process = psutil.Process(agent.pid)
    # The kernel closes the pipe that tells of a good execve(2) just before it sets the arguments.
    eventually(lambda: process.cmdline() == list(SLEEP))
    assert psutil.Process(agent.pid).environ()["A"] == "1"
    assert agent.created_at <= (agent.started_at or 0)
    assert re.fullmatch(r"[0-9a-v]{20}", agent.id)
    assert client.agent.get(id="builder") == agent


def test_spawn_without_a_name_makes_one_of_the_program(client: Client) -> None:
    names = {client.agent.spawn(spec=spec(*SLEEP)).name for _ in range(3)}

    assert len(names) == 3
    assert all(re.fullmatch(r"sleep-[0-9a-v]{5}", name) for name in names)


def test_spawn_under_a_taken_name_is_refused_until_it_is_removed(client: Client) -> None:
    first = client.agent.spawn(spec=sh("exit 0", name="taken"))
    client.agent.wait(id=first.id)

    with pytest.raises(AlreadyExistsError, match=first.id) as caught:
        client.agent.spawn(spec=spec(*SLEEP, name="taken"))
    client.agent.remove(id="taken")

    assert "remove" in (caught.value.hint or "")
    assert client.agent.spawn(spec=spec(*SLEEP, name="taken")).id != first.id
    with pytest.raises(AlreadyExistsError, match="which is running") as caught:
        client.agent.spawn(spec=spec(*SLEEP, name="taken"))
    assert "agent stop taken, then remove it" in (caught.value.hint or "")


def test_spawn_with_replace_ends_and_removes_the_holder_first(client: Client) -> None:
    first = client.agent.spawn(spec=spec(*SLEEP, name="service"), replace=True)

    second = client.agent.spawn(spec=spec(*SLEEP, name="service"), replace=True)

    assert first.pid is not None
    assert not psutil.pid_exists(first.pid)
    assert [agent.id for agent in all_agents(client)] == [second.id]


def test_spawn_takes_cwd_and_limit_of_open_files(client: Client, tmp_path: Path) -> None:
    agent = client.agent.spawn(
        spec=sh("pwd; ulimit -n", cwd=str(tmp_path), limits=Limits(open_files=64))
    )

    assert until_output(client, agent.id, b"64\n") == f"{tmp_path}\n64\n".encode()


def test_spawn_over_the_limit_of_agents_is_refused() -> None:
    settings = {"server.max_agents": 1, "limits.max_queued": 0}
    with running(settings) as server, server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        with pytest.raises(ResourceExhaustedError, match="max_agents is 1"):
            client.agent.spawn(spec=spec(*SLEEP))
        client.agent.kill(id=agent.id)

        assert client.agent.spawn(spec=spec(*SLEEP)).state == "running"


def test_one_key_is_one_agent_whoever_asks_and_when(client: Client) -> None:
    wanted = spec(*SLEEP, labels={"under": "key"})
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.agent.spawn, spec=wanted, idem="one") for _ in range(8)]
        ids = {each.result().id for each in asked}
    later = client.agent.spawn(spec=wanted, idem="one")

    with pytest.raises(ConflictError, match="'one' was used for another request"):
        client.agent.spawn(spec=spec("true"), idem="one")
    assert ids == {later.id}
    assert client.agent.list().total == 1


def test_work_goes_on_after_its_deadline_and_the_key_fetches_the_result(
    client: Client, shared_server: Server
) -> None:
    keeper = shared_server.keeper_pid
    assert keeper is not None
    wanted = spec(*SLEEP, name="late")
    os.kill(keeper, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceededError) as caught:
            client.agent.spawn(spec=wanted, idem="late-key", deadline_s=0.2)
    finally:
        os.kill(keeper, signal.SIGCONT)

    fetched = client.agent.spawn(spec=wanted, idem="late-key")

    assert caught.value.retryable
    assert fetched.state == "running"
    assert [agent.id for agent in all_agents(client)] == [fetched.id]


def test_list_pages_oldest_first_and_filters_by_state_and_label(client: Client) -> None:
    wanted = [
        AgentSpawn(spec=spec(*SLEEP, labels={"n": str(number), "odd": str(number % 2)}))
        for number in range(7)
    ]
    agents: list[AgentInfo] = client.pipeline([(AGENT_SPAWN, each) for each in wanted])
    client.agent.kill(id=agents[6].id)
    pages = [client.agent.list(limit=3)]
    while pages[-1].next is not None:
        pages.append(client.agent.list(limit=3, cursor=pages[-1].next))

    assert [len(page.agents) for page in pages] == [3, 3, 1]
    assert {page.total for page in pages} == {7}
    assert [agent.id for page in pages for agent in page.agents] == sorted(a.id for a in agents)
    assert client.agent.list(states=["running"]).total == 6
    assert client.agent.list(states=["terminated", "failed"]).agents[0].id == agents[6].id
    odd = client.agent.list(labels={"odd": "1"}, states=["running"])
    assert [agent.labels["n"] for agent in odd.agents] == ["1", "3", "5"]
    assert client.agent.list(labels={"odd": "1", "n": "2"}).total == 0


def test_agent_is_found_by_name_id_and_unambiguous_prefix(client: Client) -> None:
    first, second = (client.agent.spawn(spec=spec(*SLEEP, name=name)) for name in ("one", "two"))
    differs = next(
        n for n, pair in enumerate(zip(first.id, second.id, strict=True)) if len({*pair}) > 1
    )
    shared = first.id[:differs]
    prefix = first.id[: differs + 1]

    assert {client.agent.get(id=each).id for each in ("one", first.id, prefix)} == {first.id}
    with pytest.raises(InvalidArgumentError, match="ambiguous: 2 agents") as caught:
        client.agent.get(id=shared)
    assert caught.value.hint == "give more characters, or a name: one, two"
    for absent in ("three", first.id[:3], "0" * 20):
        with pytest.raises(NotFoundError, match=f"no agent '{absent}'"):
            client.agent.get(id=absent)


def test_wait_answers_with_the_end(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("read go; exit 12", stdin="pipe"))
    with pytest.raises(DeadlineExceededError):
        client.agent.wait(id=agent.id, deadline_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.agent.wait, id=agent.id)
        client.agent.close_stdin(id=agent.id)
        ended = waiting.result()

    assert (ended.state, ended.pid) == ("failed", None)
    assert ended.outcome is not None
    assert (ended.outcome.reason, ended.outcome.exit_code) == ("exit", 12)
    assert client.agent.wait(id=agent.id) == client.agent.get(id=agent.id)


def test_server_introduces_itself_and_lists_its_methods(
    client: Client, shared_server: Server
) -> None:
    hello = client.server.hello()
    table = client.server.methods()
    client.agent.spawn(spec=spec(*SLEEP))
    health = client.server.health()

    assert (hello.protocol, hello.identity.role, hello.identity.name) == (1, "admin", "admin")
    assert hello.identity.id.startswith("key:SHA256:")
    assert {method.name for method in table.methods} == METHODS.keys()
    assert (health.status, health.reasons, health.agents) == ("ok", [], {"running": 1})
    assert health.keeper.pid == shared_server.keeper_pid
    assert health.server_id == hello.server_id


def test_signed_certificate_lets_its_key_in_with_its_role_only(client: Client) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    signed = client.cert.sign(public_key=public, name="watcher", role="observer")
    profile = Profile(
        endpoints=(client.endpoint,),
        server_keys=(signed.server_key,),
        public_key=public,
        secret_key=secret,
        certificate=signed.certificate,
    )

    with Client(profile) as watcher:
        identity = watcher.server.hello().identity
        with pytest.raises(PermissionDeniedError):
            watcher.agent.spawn(spec=spec(*SLEEP))

    assert (identity.role, identity.name) == ("observer", "watcher")
    assert identity.id == f"key:{signed.fingerprint}"
