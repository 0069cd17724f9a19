"""The restart policy on a real server: what ends starts again, and what a person ends does not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import ConflictError
from descartesd.wire.agent import AgentInfo, AgentSpec, Restart
from tests.support.agents import SLEEP, left_empty, output, sh, spec, until_state
from tests.support.eventually import eventually
from tests.support.follower import Follower, lives
from tests.support.server import Server, gone, running

SOON = Restart(policy="on-failure", delay_s=0.05, max_delay_s=0.05)
ALWAYS = Restart(policy="always", delay_s=0.05, max_delay_s=0.05)
LATE = Restart(policy="always", delay_s=300, max_delay_s=300)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running({"server.max_agents": 2}) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client(wait_for_server_s=20) as made, left_empty(made):
        yield made


def once_failing(mark: Path, **fields: object) -> AgentSpec:
    """Describe an agent that fails while there is no such file, and then sleeps."""
    return sh(f"test -e {mark} || {{ echo failing; exit 3; }}; echo up; exec sleep 300", **fields)


def until_attempt(client: Client, agent_id: str, attempt: int) -> AgentInfo:
    def found() -> AgentInfo | None:
        agent = client.agent.get(id=agent_id)
        return agent if agent.attempt >= attempt and agent.state == "running" else None

    return eventually(found)  # type: ignore[return-value]


def kill_keeper(server: Server) -> None:
    pid = server.keeper_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    gone(pid)


def test_one_that_fails_is_started_again_and_given_up_after_so_many(
    server: Server, client: Client
) -> None:
    policy = Restart(policy="on-failure", delay_s=0.05, factor=2, jitter=0, max_restarts=3)
    agent = client.agent.spawn(spec=sh("echo try; exit 3", name="flapping", restart=policy))
    # One stream over all attempts: it ends with the last of them.
    followed = b"".join(each.data for each in client.agent.follow(id=agent.id))
    ended = client.agent.wait(id=agent.id, deadline_s=10)

    assert followed == b"try\n" * 4 == output(client, agent.id)
    assert (ended.state, ended.attempt, ended.restarts) == ("failed", 4, 3)
    assert ended.outcome is not None
    assert ended.next_start_at is None
    assert (ended.outcome.reason, ended.outcome.exit_code) == ("gave_up", 3)
    assert ended.outcome.message == "gave up after 3 restarts in a row"
    with Follower(str(server.admin)) as follower:
        seen = follower.until(client.server.hello().last_event)
    seen = [each for each in seen if each.agent_id == agent.id]
    again = ["running", "backoff"]
    expected = [
        ["starting", *again],
        *[["starting", *again]] * 2,
        ["starting", "running", "failed"],
    ]
    assert lives(seen)[agent.id] == expected
    waits = [each for each in seen if each.state == "backoff"]
    ends = {each.attempt: each.time for each in waits}
    starts = {each.attempt: each.time for each in seen if each.state == "starting"}
    for number, delay_s in enumerate((0.05, 0.1, 0.2), 1):
        assert starts[number + 1] - ends[number] > delay_s - 0.03
        assert waits[number - 1].outcome is not None
    [error] = [each for each in seen if each.kind == "error"]
    assert error.message == "gave up after 3 restarts in a row"
    # A person may try once more: the count begins anew.
    assert client.agent.respawn(id=agent.id).restarts == 0
    ended = client.agent.wait(id=agent.id, deadline_s=10)
    assert (ended.state, ended.attempt, ended.restarts) == ("failed", 8, 3)


def test_each_policy_restarts_what_it_says(server: Server, client: Client) -> None:
    done = client.agent.spawn(spec=spec("true", restart=SOON))
    assert client.agent.wait(id=done.id, deadline_s=5).state == "completed"
    never = client.agent.spawn(spec=spec("false"))
    assert client.agent.wait(id=never.id, deadline_s=5).attempt == 1
    always = client.agent.spawn(spec=sh("sleep 0.05", restart=ALWAYS))
    until_attempt(client, always.id, 3)
    assert client.agent.kill(id=always.id).state == "terminated"
    # A signal by whoever is a failure; only stop and kill say that it shall not run.
    shot = client.agent.spawn(spec=spec(*SLEEP, restart=SOON))
    client.agent.signal(id=shot.id, signal="KILL")
    again = until_attempt(client, shot.id, 2)
    assert (again.restarts, again.outcome, again.ended_at) == (1, None, None)
    assert again.pid not in (None, shot.pid)


def test_next_start_is_shown_and_a_person_may_end_it(server: Server, client: Client) -> None:
    agents = [client.agent.spawn(spec=sh("exit 4", restart=LATE)) for _ in range(2)]
    stopped, killed = (until_state(client, each.id, "backoff") for each in agents)

    assert stopped.next_start_at == pytest.approx(time.time() + 300, abs=40)
    assert stopped.outcome is not None
    assert stopped.outcome.exit_code == 4
    assert (stopped.pid, stopped.restarts) == (None, 0)
    for verb in ("pause", "resume", "respawn", "remove"):
        with pytest.raises(ConflictError, match="backoff"):
            getattr(client.agent, verb)(id=stopped.id)
    stopped, killed = client.agent.stop(id=stopped.id), client.agent.kill(id=killed.id)
    assert {stopped.state, killed.state} == {"terminated"}
    assert stopped.outcome is not None
    assert killed.outcome is not None
    assert (stopped.outcome.reason, killed.outcome.reason) == ("stopped", "killed")
    assert stopped.outcome.exit_code == 4
    assert stopped.next_start_at is None
    # A wait ends with it, and it stays ended over a crash.
    server.crash_and_restart()
    assert client.agent.wait(id=stopped.id, deadline_s=5) == stopped
    assert client.agent.wait(id=killed.id, deadline_s=5) == killed


def test_a_kill_wins_over_a_restart_whenever_it_comes(client: Client) -> None:
    policy = Restart(policy="always", delay_s=0, jitter=0)
    for wait_s in (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
        agent = client.agent.spawn(spec=sh("exit 1", restart=policy))
        until = time.monotonic() + wait_s
        eventually(lambda until=until: time.monotonic() >= until)  # type: ignore[misc]
        ended = client.agent.kill(id=agent.id)
        assert ended.state in ("terminated", "failed")
        assert client.agent.get(id=agent.id).attempt == ended.attempt
        assert client.agent.wait(id=agent.id, deadline_s=1).state == ended.state


def test_backoff_goes_on_over_a_crash_and_what_ended_meanwhile_is_restarted(
    server: Server, client: Client, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    waiting = client.agent.spawn(spec=sh("exit 1", restart=LATE))
    before = until_state(client, waiting.id, "backoff")
    policy = Restart(policy="on-failure", delay_s=0.3, jitter=0)
    due = client.agent.spawn(spec=once_failing(up, restart=policy))
    until_state(client, due.id, "backoff")
    away = client.agent.spawn(spec=sh("read line; exit 1", stdin="pipe", restart=LATE))
    server.kill()
    up.touch()
    os.kill(away.pid or 0, signal.SIGKILL)
    gone(away.pid or 0)
    server.start()

    assert until_attempt(client, due.id, 2).restarts == 1
    after = client.agent.get(id=waiting.id)
    assert (after.state, after.next_start_at) == ("backoff", before.next_start_at)
    ended = client.agent.get(id=away.id)
    assert (ended.state, ended.attempt) == ("backoff", 1)
    assert ended.outcome is not None
    assert ended.outcome.signal == signal.SIGKILL


def test_lost_agents_are_restarted_by_their_policy_and_nothing_of_them_is_left(
    server: Server, client: Client
) -> None:
    wanted = client.agent.spawn(spec=spec(*SLEEP, restart=ALWAYS))
    other = client.agent.spawn(spec=spec(*SLEEP))
    kill_keeper(server)

    again = until_attempt(client, wanted.id, 2)
    assert (again.restarts, again.state) == (1, "running")
    lost = until_state(client, other.id, "lost")
    assert lost.outcome is not None
    assert lost.outcome.reason == "keeper_lost"
    for agent in (wanted, other):
        gone(agent.pid or 0)
    client.agent.kill(id=wanted.id)


def test_a_restart_waits_for_a_slot_behind_who_came_before(
    server: Server, client: Client, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    first = client.agent.spawn(spec=once_failing(up, restart=SOON, name="first"))
    holders = [client.agent.spawn(spec=spec(*SLEEP, name=f"holder-{n}")) for n in range(2)]
    until_state(client, holders[1].id, "running")
    waiting = eventually(lambda: client.agent.get(id=first.id).queue_position)
    up.touch()

    agent = client.agent.get(id=first.id)
    assert (waiting, agent.state, agent.attempt) == (1, "backoff", 1)
    client.agent.kill(id=holders[0].id)
    again = until_attempt(client, first.id, 2)
    assert again.queue_position is None
    assert again.next_start_at is None


def test_a_restart_that_cannot_start_is_failed(
    server: Server, client: Client, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nrm $0; exit 1\n")
    program.chmod(0o755)
    agent = client.agent.spawn(spec=spec(str(program), restart=ALWAYS))
    ended = client.agent.wait(id=agent.id, deadline_s=5)

    assert (ended.state, ended.attempt, ended.restarts) == ("failed", 2, 1)
    assert ended.outcome is not None
    assert ended.outcome.reason == "spawn_error"
    assert str(program) in (ended.outcome.message or "")


def test_an_orderly_stop_of_the_server_ends_what_would_be_restarted(
    server: Server, client: Client
) -> None:
    waiting = client.agent.spawn(spec=sh("exit 1", restart=LATE))
    until_state(client, waiting.id, "backoff")
    up = client.agent.spawn(spec=spec(*SLEEP, restart=ALWAYS))
    assert server.stop() == 0
    server.start()

    for agent in (waiting, up):
        ended = client.agent.get(id=agent.id)
        assert ended.state == "terminated"
        assert ended.outcome is not None
        assert ended.outcome.reason == "stopped"
