"""An ended agent started once more: what stays, what goes on, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psutil
import pytest

from descartesd.client import AsyncClient, Client
from descartesd.errors import AbortedError, ConflictError, InvalidArgumentError, NotFoundError
from descartesd.wire.agent import AgentInfo, AgentRef
from descartesd.wire.methods import AGENT_RESPAWN
from tests.support.agents import (
    DETACHED,
    SLEEP,
    carrying,
    left_empty,
    output,
    python,
    sh,
    spec,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.server import Server


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    with shared_server.client() as client, left_empty(client):
        yield client


def test_it_keeps_what_was_asked_for_and_its_output_goes_on(client: Client) -> None:
    script = 'echo "$GREETING"; echo error >&2'
    wanted = sh(script, name="again", labels={"team": "red"}, env={"GREETING": "hello"})
    first = client.agent.spawn(spec=wanted)
    ended = client.agent.wait(id=first.id)

    second = client.agent.respawn(id="again")

    assert (second.id, second.name, second.labels) == (first.id, "again", {"team": "red"})
    assert (second.spec, second.created_at, second.owner) == (
        first.spec, first.created_at, first.owner,
    )  # fmt: skip
    assert second.attempt == 2
    assert (second.started_at or 0) > (ended.ended_at or 0)
    end = client.agent.wait(id="again")
    assert (end.state, end.attempt) == ("completed", 2)
    until_output(client, first.id, b"hello\nhello\n")
    tail = client.agent.output(id=first.id, offset=6)
    assert (tail.data, tail.offset, tail.next_offset) == (b"hello\n", 6, 12)
    assert output(client, first.id, "stderr") == b"error\nerror\n"


def test_it_is_told_step_by_step(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("exit 4"))
    client.agent.wait(id=agent.id)
    since = client.server.hello().last_event
    client.agent.respawn(id=agent.id)

    seen = []
    with client.event.follow(since=since) as stream:
        for event in stream:
            seen.append((event.kind, event.state, event.attempt))
            if event.kind == "error":
                break

    assert seen == [
        ("status_changed", "queued", 2),
        ("status_changed", "starting", 2),
        ("status_changed", "running", 2),
        ("error", "failed", 2),
    ]


@pytest.mark.parametrize("verb", ["running", "paused"])
def test_living_agent_is_not_started_again(client: Client, verb: str) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))
    if verb == "paused":
        client.agent.pause(id=agent.id)

    with pytest.raises(ConflictError, match=f"is {verb}: respawn needs an agent that has ended"):
        client.agent.respawn(id=agent.id)

    assert client.agent.get(id=agent.id).pid == agent.pid


def test_program_that_has_vanished_is_told_and_is_the_end_of_that_attempt(
    client: Client, tmp_path: Path
) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\necho done\n")
    program.chmod(0o755)
    agent = client.agent.spawn(spec=spec(str(program), name="tool"))
    client.agent.wait(id=agent.id)
    program.rename(tmp_path / "elsewhere")
    since = client.server.hello().last_event

    with pytest.raises(InvalidArgumentError, match="tool"):
        client.agent.respawn(id="tool")

    failed = client.agent.get(id="tool")
    assert (failed.state, failed.attempt, failed.pid) == ("failed", 2, None)
    assert failed.outcome is not None
    assert failed.outcome.reason == "spawn_error"
    with client.event.follow(since=since) as stream:
        event = next(event for event in stream if event.kind == "error")
    assert (event.agent_id, event.previous) == (agent.id, "starting")
    assert "tool" in (event.message or "")
    assert output(client, agent.id) == b"done\n"

    (tmp_path / "elsewhere").rename(program)
    assert client.agent.respawn(id="tool").attempt == 3
    until_output(client, agent.id, b"done\ndone\n")


def test_same_key_starts_it_once(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("echo x"))
    client.agent.wait(id=agent.id)

    first = client.agent.respawn(id=agent.id, idem="once-more")
    client.agent.wait(id=agent.id)
    again = client.agent.respawn(id=agent.id, idem="once-more")

    assert (first.attempt, again) == (2, first)
    assert client.agent.get(id=agent.id).attempt == 2


def test_of_many_who_start_it_again_one_does(client: Client) -> None:
    agent = client.agent.spawn(spec=sh(f"echo x; exec {' '.join(SLEEP)}"))
    until_output(client, agent.id, b"x\n")
    client.agent.kill(id=agent.id)

    asked = [(AGENT_RESPAWN, AgentRef(id=agent.id))] * 8
    answers = list(client.pipeline(asked))

    (started,) = [answer for answer in answers if isinstance(answer, AgentInfo)]
    assert started.attempt == 2
    assert sum(isinstance(answer, ConflictError) for answer in answers) == 7
    until_output(client, agent.id, b"x\nx\n")


def test_who_waits_sees_the_end_of_the_attempt_that_was(
    client: Client, shared_server: Server
) -> None:
    agent = client.agent.spawn(spec=spec("/bin/cat", stdin="pipe"))

    async def wait_and_start_anew() -> None:
        async with AsyncClient(str(shared_server.admin)) as one, one.event.follow() as stream:
            for attempt in range(1, 21):
                async with asyncio.TaskGroup() as group:
                    # In this order on one connection: who waits is there before the end.
                    waiting = group.create_task(one.agent.wait(id=agent.id, deadline_s=5))
                    group.create_task(one.agent.close_stdin(id=agent.id))
                    while (await anext(stream)).kind != "completed":
                        continue
                    again = await one.agent.respawn(id=agent.id)
                    ended = await waiting
                assert (ended.attempt, ended.state) == (attempt, "completed")
                assert again.attempt == attempt + 1

    asyncio.run(wait_and_start_anew())


def test_what_the_attempt_before_left_with_an_open_pipe_does_not_write_into_the_next(
    client: Client,
) -> None:
    agent = client.agent.spawn(spec=python(DETACHED, stdin="pipe"))
    (pid,) = eventually(lambda: output(client, agent.id).split())
    client.agent.close_stdin(id=agent.id)
    client.agent.wait(id=agent.id)

    second = client.agent.respawn(id=agent.id)

    assert second.attempt == 2
    assert not psutil.pid_exists(int(pid))
    eventually(lambda: len(output(client, agent.id).split()) == 2)


def test_respawn_and_remove_at_once_agree_on_one(client: Client) -> None:
    for _ in range(20):
        agent = client.agent.spawn(spec=spec(*SLEEP))
        client.agent.kill(id=agent.id)
        with ThreadPoolExecutor(2) as pool:
            removing = pool.submit(client.agent.remove, id=agent.id)
            respawning = pool.submit(client.agent.respawn, id=agent.id)
            failures = [removing.exception(), respawning.exception()]

        (failure,) = [each for each in failures if each is not None]
        assert isinstance(failure, ConflictError | NotFoundError), failure
        try:
            assert client.agent.get(id=agent.id).state == "running"
        except NotFoundError:
            assert failures[0] is None


def test_crash_of_the_daemon_at_any_moment_leaves_one_attempt_or_none(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP, name="one"))
        client.agent.kill(id=agent.id)

    for number in range(8):
        with server.client(wait_for_server_s=20) as client, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(_respawn, client, f"key-{number}")
            # From before the request has come to after its answer.
            Event().wait(number * 0.001)
            server.crash_and_restart()
            answer = asked.result(timeout=30)
            now = client.agent.get(id="one")
            again = _respawn(client, f"key-{number}")

            if isinstance(answer, AgentInfo):
                assert again == answer
                assert (now.state, now.attempt) == ("running", answer.attempt)
                # In the middle of execve(2) a process shows no environment.
                (process,) = eventually(lambda: carrying("DESCARTES_AGENT_ID", agent.id))
                assert process.pid == now.pid
                client.agent.kill(id="one")
            else:
                assert isinstance(again, AbortedError)
                assert now.state in ("failed", "terminated")
                assert carrying("DESCARTES_AGENT_ID", agent.id) == []


def _respawn(client: Client, key: str) -> AgentInfo | AbortedError:
    try:
        return client.agent.respawn(id="one", idem=key)
    except AbortedError as exc:
        return exc
