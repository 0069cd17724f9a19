"""What users of other process managers ask for, each demand by its number and for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from descartesd.client import Client
from descartesd.errors import UnimplementedError
from descartesd.wire.agent import AgentSpec, FollowOffsets, Limits, Restart, Tty
from tests.support.agents import (
    DETACHED,
    SLEEP,
    carrying,
    is_alive,
    left_empty,
    output,
    python,
    sh,
    spec,
    until_output,
    until_state,
)
from tests.support.chatter import with_chatter
from tests.support.eventually import eventually
from tests.support.fakes import fake
from tests.support.server import Server, running

MIB = 1 << 20


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    with shared_server.client() as made, left_empty(made):
        yield made


def test_b4_a_whole_tree_ends_with_its_agent(client: Client) -> None:
    agent = client.agent.spawn(spec=python(DETACHED, stdin="pipe"))
    child = psutil.Process(int(until_output(client, agent.id, b"\n")))

    client.agent.kill(id=agent.id)

    assert not is_alive(child)
    assert not carrying("DESCARTES_AGENT_ID", agent.id)


def test_b5_a_limit_holds_or_is_refused_and_use_is_shown_live(client: Client) -> None:
    with pytest.raises(UnimplementedError, match="memory") as refused:
        client.agent.spawn(spec=spec(*SLEEP, limits=Limits(memory_bytes=64 * MIB)))
    assert refused.value.hint is not None
    assert "best_effort" in refused.value.hint
    short = client.agent.spawn(spec=spec(*SLEEP, limits=Limits(run_seconds=0.3)))
    busy = client.agent.spawn(spec=sh("while :; do :; done"))

    ended = client.agent.wait(id=short.id)
    used = eventually(
        lambda: (now := client.agent.get(id=busy.id).usage) and now.cpu_seconds > 0 and now,
        timeout=10,
    )

    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason) == ("terminated", "run_time_limit")
    assert used
    assert used.tasks == 1
    assert used.memory_bytes > 100_000


def test_b6_who_is_over_the_limit_waits_at_a_place_of_its_own() -> None:
    with running({"server.max_agents": 1}) as server, server.client() as client:
        first = client.agent.spawn(spec=spec(*SLEEP))
        waiting = [client.agent.spawn(spec=spec("true")) for _ in range(3)]

        places = [client.agent.get(id=each.id).queue_position for each in waiting]
        client.agent.kill(id=first.id)

        assert [each.state for each in waiting] == ["queued"] * 3
        assert places == [1, 2, 3]
        starts = [client.agent.wait(id=each.id).started_at or 0.0 for each in waiting]
        assert starts == sorted(starts)


def test_b11_restarts_wait_longer_each_time_and_are_given_up(client: Client) -> None:
    policy = Restart(policy="on-failure", delay_s=0.2, factor=2, jitter=0, max_restarts=2)
    agent = client.agent.spawn(spec=sh("date +%s.%N; exit 3", restart=policy))

    ended = client.agent.wait(id=agent.id)

    first, second, third = map(float, output(client, agent.id).split())
    assert 0.2 <= second - first < third - second
    assert third - second >= 0.4
    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason, ended.restarts) == ("failed", "gave_up", 2)


def test_b12_a_stream_goes_on_where_it_was_left(client: Client, shared_server: Server) -> None:
    agent = client.agent.spawn(spec=sh("echo one; read go; echo two", stdin="pipe"))
    with shared_server.client() as before:
        read = next(chunk for chunk in before.agent.follow(id=agent.id) if chunk.data)
    client.agent.write(id=agent.id, data=b"\n")

    rest = [
        chunk.data
        for chunk in client.agent.follow(
            id=agent.id, streams=["stdout"], offsets=FollowOffsets(stdout=read.next_offset)
        )
    ]

    assert (read.data, b"".join(rest)) == (b"one\n", b"two\n")


def test_b13_a_respawn_has_the_same_arguments_environment_and_directory(
    client: Client, tmp_path: Path
) -> None:
    script = "import os, sys; print(sys.argv[1:], os.environ['API_TOKEN'], os.getcwd())"
    wanted = python(script, "a b", "", "ü", env={"API_TOKEN": "t-1"}, cwd=str(tmp_path))
    agent = client.agent.spawn(spec=wanted)
    client.agent.wait(id=agent.id)

    again = client.agent.respawn(id=agent.id)
    client.agent.wait(id=agent.id)

    first, second = output(client, agent.id).decode().splitlines()
    assert first == second == f"['a b', '', 'ü'] t-1 {tmp_path}"
    assert again.spec.env == {"API_TOKEN": "***"}


def test_b14_an_agent_goes_on_with_its_own_conversation() -> None:
    with with_chatter() as server, server.client() as client:
        agent = client.agent.spawn(spec=AgentSpec(backend="chatter", task="first"))
        session = client.agent.wait(id=agent.id).session_id

        client.agent.respawn(id=agent.id, resume=True, task="second")
        client.agent.wait(id=agent.id)

        results = [json.loads(line) for line in output(client, agent.id).splitlines()]
        found = json.loads([each["result"] for each in results if each["type"] == "result"][-1])
        assert session
        assert found["argv"][0] == f"--resume={session}"
        assert found["argv"][-1] == "second"


def test_b15_the_daemons_memory_does_not_grow_with_output() -> None:
    with running() as server, server.client() as client, left_empty(client):
        assert server.process is not None
        daemon = psutil.Process(server.process.pid)
        first = client.agent.spawn(spec=sh("head -c 1000000 /dev/zero"))
        client.agent.wait(id=first.id)
        before = daemon.memory_info().rss

        agent = client.agent.spawn(spec=sh("head -c 300000000 /dev/zero"))
        client.agent.wait(id=agent.id)

        assert client.agent.output(id=agent.id).total == 300_000_000
        assert daemon.memory_info().rss - before < 8 * MIB


def test_b20_a_program_is_typed_to_and_says_that_it_waits(client: Client) -> None:
    shell = client.agent.spawn(spec=spec("sh", "-i", tty=Tty(rows=24, cols=80)))
    asking = client.agent.spawn(spec=fake("claude", "", "--chat", stdin="pipe"))

    message = {"role": "user", "content": "[[ask: Bash]]"}
    line = json.dumps({"type": "user", "message": message})
    client.agent.write(id=asking.id, data=f"{line}\n".encode())
    client.agent.write(id=shell.id, data=b"stty size; echo $((6*7))\n")

    assert b"24 80" in until_output(client, shell.id, b"\r\n42\r\n")
    waits = eventually(
        lambda: (now := client.agent.get(id=asking.id)).activity == "waiting" and now
    )
    assert waits
    assert waits.question is not None
    until_state(client, asking.id, "running")
