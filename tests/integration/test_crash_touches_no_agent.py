"""Daemon or keeper killed with agents in every state: no agent of a killed daemon notices."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from descartesd.client import AsyncClient, Client
from descartesd.errors import UnavailableError
from descartesd.wire.agent import AgentInfo, StopSpec, StreamName
from tests.support.agents import (
    SLEEP,
    all_agents,
    carrying,
    is_alive,
    is_stopped,
    output,
    python,
    sh,
    spec,
    times_lost,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.server import Server, alive, gone

LINES = 400
# Numbered lines on both streams, one every 5 ms, for about 2 s.
WRITER = f"""
import os, time
for number in range({LINES}):
    os.write(1, b"line %06d\\n" % number)
    os.write(2, b"error %06d\\n" % number)
    time.sleep(0.005)
"""
WRITTEN: dict[StreamName, bytes] = {
    "stdout": b"".join(b"line %06d\n" % number for number in range(LINES)),
    "stderr": b"".join(b"error %06d\n" % number for number in range(LINES)),
}
# A tool in a session of its own, and a process nobody is the parent of any more.
FAMILY = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(300)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.write(1, b"ready\\n")
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients that wait."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def waiting(server: Server, agent_id: str) -> AgentInfo:
    """Wait for an agent with a blocking client of its own."""
    with server.client(wait_for_server_s=20) as client:
        return client.agent.wait(id=agent_id)


def following(server: Server, agent_id: str) -> dict[str, bytes]:
    """Follow an agent to its end with a blocking client of its own; each chunk joins the last."""
    found = {"stdout": b"", "stderr": b""}
    with (
        server.client(wait_for_server_s=20) as client,
        client.agent.follow(id=agent_id) as stream,
    ):
        for chunk in stream:
            assert chunk.offset == len(found[chunk.stream])
            found[chunk.stream] += chunk.data
    return found


def in_loop(server: Server, agent_id: str) -> tuple[AgentInfo, dict[str, bytes]]:
    """Wait for and follow an agent with an asyncio client."""

    async def both() -> tuple[AgentInfo, dict[str, bytes]]:
        found = {"stdout": b"", "stderr": b""}
        async with AsyncClient(str(server.admin), wait_for_server_s=20) as client:
            async with asyncio.TaskGroup() as group:
                ended = group.create_task(client.agent.wait(id=agent_id))
                async for chunk in client.agent.follow(id=agent_id):
                    assert chunk.offset == len(found[chunk.stream])
                    found[chunk.stream] += chunk.data
            return ended.result(), found

    return asyncio.run(both())


def test_waiting_and_following_clients_carry_on_over_crashes_without_loss_or_duplicate(
    server: Server, pool: ThreadPoolExecutor
) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=python(WRITER))
        until_output(client, agent.id, b"line 000010\n")
        waits = pool.submit(waiting, server, agent.id)
        follows = pool.submit(following, server, agent.id)
        async_both = pool.submit(in_loop, server, agent.id)
        for line in (b"line 000060\n", b"line 000200\n"):
            until_output(client, agent.id, line)
            server.crash_and_restart()

        ended = waits.result(timeout=10)
        async_ended, async_found = async_both.result(timeout=10)

        assert (ended.state, ended.pid) == ("completed", None)
        assert async_ended.outcome == ended.outcome
        assert follows.result(timeout=10) == WRITTEN
        assert async_found == WRITTEN
        for stream, written in WRITTEN.items():
            assert output(client, agent.id, stream) == written


class Scene:
    """Agents in every state, as they were before the crash."""

    def __init__(self, client: Client) -> None:
        self.running = client.agent.spawn(spec=spec(*SLEEP))
        self.paused = client.agent.spawn(spec=spec(*SLEEP))
        client.agent.pause(id=self.paused.id)
        self.writing = client.agent.spawn(spec=python(WRITER))
        self.reading = client.agent.spawn(
            spec=sh('while read line; do echo "got $line"; done; exit 9', stdin="pipe")
        )
        client.write(self.reading.id, b"before\n")
        until_output(client, self.reading.id, b"got before\n")
        self.ended = client.agent.spawn(spec=sh("echo done; exit 4"))
        client.agent.wait(id=self.ended.id)
        self.exiting = {
            code: client.agent.spawn(spec=sh(f"read go; exit {code}", stdin="pipe"))
            for code in (0, 3)
        }
        self.killed = client.agent.spawn(spec=spec(*SLEEP))
        self.flooding = client.agent.spawn(
            spec=sh("read go; head -c 3000000 /dev/zero; echo end >&2", stdin="pipe")
        )

    def end_some(self) -> None:
        """While no daemon runs: some agents exit, one after much output, and one is killed."""
        ending = (*self.exiting.values(), self.flooding)
        for agent in ending:
            # It reads from a pipe, whoever else may write into it.
            with open(f"/proc/{agent.pid}/fd/0", "wb", buffering=0) as stdin:
                stdin.write(b"go\n")
        assert self.killed.pid is not None
        os.kill(self.killed.pid, signal.SIGKILL)
        for agent in (*ending, self.killed):
            gone(agent.pid or 0)


def test_kill_of_the_daemon_leaves_every_agent_as_it_is(
    server: Server, pool: ThreadPoolExecutor
) -> None:
    with server.client() as client:
        scene = Scene(client)
        keeper = server.keeper_pid
        waits = pool.submit(waiting, server, scene.exiting[3].id)
        client.server.health()
        server.kill()
        scene.end_some()

        server.start()

        assert server.keeper_pid == keeper
        for agent in (scene.running, scene.paused, scene.reading):
            assert client.agent.get(id=agent.id).pid == agent.pid
        assert client.agent.get(id=scene.running.id).state == "running"
        check_paused(client, scene.paused)
        check_reading(client, scene.reading)
        for code, agent in scene.exiting.items():
            check_outcome(client, agent, "completed" if code == 0 else "failed", (code, None))
        assert waits.result(timeout=10) == client.agent.get(id=scene.exiting[3].id)
        check_flood(client, scene.flooding)
        check_outcome(client, scene.killed, "failed", (None, signal.SIGKILL))
        check_outcome(client, scene.ended, "failed", (4, None))
        assert output(client, scene.ended.id) == b"done\n"
        assert client.agent.wait(id=scene.writing.id).state == "completed"
        for stream, written in WRITTEN.items():
            found = output(client, scene.writing.id, stream)
            assert hashlib.sha256(found).digest() == hashlib.sha256(written).digest()


def check_paused(client: Client, before: AgentInfo) -> None:
    agent = client.agent.get(id=before.id)
    assert before.pid is not None
    assert (agent.state, agent.pause_mode) == ("paused", "tree")
    assert agent.paused_at is not None
    assert is_stopped(before.pid)
    assert client.agent.resume(id=agent.id).state == "running"
    assert not is_stopped(before.pid)


def check_reading(client: Client, before: AgentInfo) -> None:
    client.write(before.id, b"after\n")
    until_output(client, before.id, b"got before\ngot after\n")
    client.agent.close_stdin(id=before.id)
    check_outcome(client, before, "failed", (9, None))


def check_flood(client: Client, before: AgentInfo) -> None:
    check_outcome(client, before, "completed", (0, None))
    assert output(client, before.id) == bytes(3_000_000)
    assert output(client, before.id, "stderr") == b"end\n"
    assert client.agent.get(id=before.id).output.stdout.total == 3_000_000


def check_outcome(
    client: Client, before: AgentInfo, state: str, outcome: tuple[int | None, int | None]
) -> None:
    agent = client.agent.wait(id=before.id, deadline_s=5)
    assert agent.state == state
    assert agent.outcome is not None
    assert (agent.outcome.exit_code, agent.outcome.signal) == outcome
    assert agent.ended_at is not None
    assert eventually(lambda: client.agent.output(id=before.id, offset=1 << 30).eof)


def check_lost(client: Client, server: Server, before: AgentInfo) -> None:
    agent = client.agent.wait(id=before.id, deadline_s=5)
    assert agent.state == "lost"
    assert agent.outcome is not None
    assert agent.outcome.reason == "keeper_lost"
    assert (agent.outcome.exit_code, agent.outcome.signal) == (None, None)
    assert times_lost(server)[before.id] == 1


def test_kill_of_the_keeper_ends_its_agents_and_a_new_one_serves(
    server: Server, pool: ThreadPoolExecutor
) -> None:
    with server.client() as client:
        family = client.agent.spawn(spec=python(FAMILY, name="family"))
        paused = client.agent.spawn(spec=spec(*SLEEP))
        client.agent.pause(id=paused.id)
        ended = client.agent.spawn(spec=sh("echo kept; exit 5"))
        client.agent.wait(id=ended.id)
        until_output(client, family.id, b"ready\n")
        members = carrying("DESCARTES_AGENT_ID", family.id)
        waits = pool.submit(waiting, server, family.id)
        follows = pool.submit(following, server, family.id)
        keeper = server.keeper_pid
        assert keeper is not None
        assert len(members) == 3

        os.kill(keeper, signal.SIGKILL)

        for agent in (family, paused):
            check_lost(client, server, agent)
            assert carrying("DESCARTES_AGENT_ID", agent.id) == []
        assert not any(is_alive(member) for member in members)
        assert waits.result(timeout=5).state == "lost"
        assert follows.result(timeout=5)["stdout"] == b"ready\n"
        assert output(client, family.id) == b"ready\n"
        assert client.agent.output(id=family.id, offset=6).eof
        check_outcome(client, ended, "failed", (5, None))
        health = eventually(
            lambda: (now := client.server.health()).status == "ok" and now, timeout=3
        )
        assert health.keeper.pid not in (None, keeper)
        client.agent.remove(id=family.id)
        assert client.agent.spawn(spec=sh("exit 0", name="family")).name == "family"


def test_kill_of_daemon_and_keeper_ends_what_was_left_before_serving(server: Server) -> None:
    with server.client() as client:
        family = client.agent.spawn(spec=python(FAMILY))
        until_output(client, family.id, b"ready\n")
        ended = client.agent.spawn(spec=sh("exit 5"))
        client.agent.wait(id=ended.id)
        members = carrying("DESCARTES_AGENT_ID", family.id)
        assert len(members) == 3
        keeper = server.keeper_pid
        assert keeper is not None
        server.kill()
        os.kill(keeper, signal.SIGKILL)
        gone(keeper)
        assert all(is_alive(member) for member in members)

        server.start()

        assert not any(is_alive(member) for member in members)
        check_lost(client, server, family)
        check_outcome(client, ended, "failed", (5, None))
        server.crash_and_restart()
        check_lost(client, server, family)
        assert client.agent.spawn(spec=spec(*SLEEP)).state == "running"


def test_keeper_that_does_not_answer_is_reported_and_used_again_when_it_does(
    server: Server,
) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        keeper = server.keeper_pid
        assert keeper is not None
        server.kill()
        os.kill(keeper, signal.SIGSTOP)
        try:
            server.start()
            hung = client.server.health()
            shown = client.agent.get(id=agent.id)
            with pytest.raises(UnavailableError, match="not connected"):
                client.agent.spawn(spec=spec(*SLEEP))
        finally:
            os.kill(keeper, signal.SIGCONT)
        eventually(lambda: client.server.health().status == "ok")

        assert (hung.status, hung.keeper.connected) == ("degraded", False)
        assert hung.reasons == ["the keeper is not connected: the keeper does not answer"]
        assert (shown.id, shown.state, shown.pid) == (agent.id, "running", agent.pid)
        assert server.keeper_pid == keeper
        assert client.agent.kill(id=agent.id).state == "terminated"
        assert client.agent.spawn(spec=spec(*SLEEP)).state == "running"


def test_agents_that_ended_and_were_removed_stay_so_over_a_crash(server: Server) -> None:
    with server.client() as client:
        removed = client.agent.spawn(spec=sh("exit 1"))
        client.agent.wait(id=removed.id)
        client.agent.remove(id=removed.id)
        kept = client.agent.spawn(spec=sh("exit 2"))
        client.agent.wait(id=kept.id)

        for _ in range(2):
            server.crash_and_restart()

        assert [agent.id for agent in all_agents(client)] == [kept.id]
        check_outcome(client, kept, "failed", (2, None))


def test_termination_ends_agents_in_order_and_leaves_nothing(
    server: Server, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    with server.client() as client:
        orderly = client.agent.spawn(
            spec=sh(f"trap 'echo bye > {said}; exit 3' TERM; echo ready; read go", stdin="pipe")
        )
        family = client.agent.spawn(spec=python(FAMILY))
        stubborn = client.agent.spawn(
            spec=sh(
                "trap '' TERM; echo ready; while :; do sleep 1; done",
                stop=StopSpec(grace_s=0.3),
            )
        )
        for agent in (orderly, family, stubborn):
            until_output(client, agent.id, b"ready\n")
        processes: list[psutil.Process] = [
            process
            for agent in (orderly, family, stubborn)
            for process in carrying("DESCARTES_AGENT_ID", agent.id)
        ]
        waits = pool.submit(waiting, server, orderly.id)
        client.server.health()
        keeper = server.keeper_pid
        assert keeper is not None

        assert server.stop() == 0

        assert not any(is_alive(process) for process in processes)
        assert not alive(keeper)
        assert said.read_text() == "bye\n"
        assert not list((server.directory / "run").glob("*.sock"))
        server.start()
        outcomes: dict[str, Any] = {}
        for agent in (orderly, family, stubborn):
            ended = client.agent.get(id=agent.id)
            assert ended.state == "terminated"
            assert ended.outcome is not None
            outcomes[agent.id] = (
                ended.outcome.reason, ended.outcome.exit_code, ended.outcome.signal,
            )  # fmt: skip
        assert outcomes == {
            orderly.id: ("stopped", 3, None),
            family.id: ("stopped", None, signal.SIGTERM),
            stubborn.id: ("stopped", None, signal.SIGKILL),
        }
        assert waits.result(timeout=5).state == "terminated"
