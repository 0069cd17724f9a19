"""Faults that once were there, each by what one saw of it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from descartesd.client import Client
from descartesd.errors import (
    AbortedError,
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
)
from descartesd.wire.agent import StopSpec
from tests.faults.peers import Peer, Peers, keys_of, logged
from tests.support.agents import SLEEP, is_stopped, sh, spec, until_output, until_state
from tests.support.eventually import eventually
from tests.support.server import BIN, Server, alive, gone


@contextmanager
def descriptors_below(pid: int, limit: int) -> Iterator[None]:
    """Keep a process from opening descriptors from this number on, for the time of a block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peers(server) as peers:
        yield peers.connect()


@pytest.fixture
def full(server: Server) -> Iterator[Server]:
    """A server whose registry takes no page any more, not even in place of another."""
    assert server.process is not None
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield server
    if server.process.poll() is None:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)


def test_server_died_when_its_registry_could_not_be_written(full: Server) -> None:
    assert full.process is not None
    with full.client() as client:
        with pytest.raises(UnavailableError, match="the registry cannot be written"):
            client.agent.spawn(spec=spec(*SLEEP, name="web"))
        assert client.agent.list().total == 0
        health = client.server.health()
        assert health.status == "degraded"
        assert "the registry cannot be written" in health.reasons[0]

        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(full.process.pid, resource.RLIMIT_FSIZE, unlimited)

        eventually(lambda: client.server.health().status == "ok")
        assert client.agent.spawn(spec=spec(*SLEEP, name="web")).state == "running"


def test_exit_told_without_a_free_descriptor_was_forgotten(server: Server, peer: Peer) -> None:
    assert server.process is not None
    spawned = {"spec": {"command": ["sh", "-c", "echo out; read x; exit 3"], "stdin": "pipe"}}
    agent = peer.result("agent.spawn", spawned)
    eventually(lambda: peer.result("agent.output", {"id": agent["id"]})["data"])
    with descriptors_below(server.process.pid, 3):
        peer.result("agent.close_stdin", {"id": agent["id"]})
        gone(agent["pid"])
        assert "agents" in peer.result("agent.list")

    ended = peer.result("agent.wait", {"id": agent["id"]}, deadline_s=5)

    assert (ended["state"], ended["outcome"]["exit_code"]) == ("failed", 3)


def test_large_write_without_a_free_descriptor_cost_the_connection_to_the_keeper(
    server: Server, peer: Peer
) -> None:
    assert server.process is not None
    agent = peer.result("agent.spawn", {"spec": {"command": ["cat"], "stdin": "pipe"}})["id"]
    with descriptors_below(server.process.pid, 3):
        refused = peer.refusal("agent.write", {"id": agent, "data": bytes(150_000)})

    assert refused == "resource_exhausted"
    assert logged(server, "keeper.lost") == []
    assert peer.result("agent.kill", {"id": agent})["state"] == "terminated"


def test_server_died_when_no_new_keeper_could_be_started(server: Server) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    log = server.directory / "state" / "keeper.log"
    log.unlink()
    log.mkdir()
    os.kill(keeper, signal.SIGKILL)

    with server.client() as client:
        eventually(lambda: "keeper.log" in "".join(client.server.health().reasons))
        log.rmdir()

        eventually(lambda: client.server.health().status == "ok")
        assert client.agent.spawn(spec=spec(*SLEEP)).state == "running"


def test_server_died_when_its_keeper_was_asked_by_another_while_agents_stopped(
    server: Server, peer: Peer
) -> None:
    stubborn = "trap '' TERM; while :; do sleep 60; done"
    agents = [
        peer.result("agent.spawn", {"spec": {"command": ["sh", "-c", stubborn]}})["id"]
        for _ in range(30)
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as intruder:
        intruder.connect(str(server.directory / "run" / "keeper.sock"))
        for number, agent in enumerate(agents):
            peer.send("agent.stop", {"id": agent, "grace_s": 60}, id=f"s{number}")
            peer.send("agent.get", {"id": agent}, id=f"g{number}")
        eventually(lambda: logged(server, "keeper.lost"))
        with server.client() as client:
            eventually(lambda: client.server.health().status == "ok")
            for agent in agents:
                eventually(lambda: is_killed(client, agent))  # noqa: B023


def test_refusal_for_want_of_a_keeper_stuck_to_its_key(server: Server, peer: Peer) -> None:
    keeper = server.keeper_pid
    assert keeper is not None
    wanted = {"spec": {"command": list(SLEEP)}}
    os.kill(keeper, signal.SIGKILL)

    eventually(lambda: peer.result("server.health")["status"] == "degraded")
    answer = peer.ask("agent.spawn", wanted, idem="nightly")
    eventually(lambda: peer.result("server.health")["status"] == "ok")

    if "error" in answer:
        assert answer["error"]["retryable"]
        answer = peer.ask("agent.spawn", wanted, idem="nightly")
    assert answer["result"]["state"] == "running"


def test_agent_spawned_without_a_key_was_forgotten_when_daemon_and_keeper_died(
    server: Server, peer: Peer
) -> None:
    agent = peer.result("agent.spawn", {"spec": {"command": list(SLEEP)}})
    keeper = server.keeper_pid
    assert keeper is not None
    server.kill()
    os.kill(keeper, signal.SIGKILL)
    gone(keeper)

    server.start()

    with server.client() as client:
        assert client.agent.get(id=agent["id"]).state == "lost"


def test_agent_continued_by_a_signal_was_still_called_paused(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        assert agent.pid is not None
        client.agent.pause(id=agent.id)

        client.agent.signal(id=agent.id, signal="CONT")

        running = client.agent.get(id=agent.id)
        assert (running.state, running.paused_at, running.pause_mode) == ("running", None, None)
        assert client.agent.pause(id=agent.id).state == "paused"
        assert is_stopped(agent.pid)


def test_replacing_an_agent_by_an_impossible_one_ended_it(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP, name="web"))

        with pytest.raises(InvalidArgumentError, match="not an absolute path"):
            client.agent.spawn(spec=spec(*SLEEP, name="web", cwd="here"), replace=True)

        assert client.agent.get(id="web").id == agent.id
        assert client.agent.get(id="web").state == "running"


def test_follower_of_a_removed_agent_was_told_it_had_everything(server: Server, peer: Peer) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=sh("head -c 1000000 /dev/zero"))
        client.agent.wait(id=agent.id)
        eventually(lambda: client.agent.output(id=agent.id, offset=1_000_000).eof)
        peer.send("agent.follow", {"id": agent.id}, id="f", credit={"items": 1, "bytes": 1 << 20})
        assert peer.receive()["stream"]
        assert peer.receive()["item"]["next_offset"] < 1_000_000

        client.agent.remove(id=agent.id)
        peer.send("stream.credit", {"stream": "f", "items": 1000}, id="c")
        ends = [message for message in (peer.receive(), peer.receive()) if message["id"] == "f"]

    assert [end["error"]["code"] for end in ends] == ["not_found"]


def test_stream_outlived_the_certificate_of_its_client(server: Server) -> None:
    profile = server.issue("leaver", "operator")
    with Peers(server) as peers, server.client() as client:
        agent = client.agent.spawn(spec=sh("while sleep 0.02; do echo; done"))
        leaver = peers.connect(keys_of(profile))
        leaver.send("agent.follow", {"id": agent.id}, id="f")
        assert leaver.receive()["stream"]

        (server.directory / "state" / "trust" / "leaver.cert").unlink()
        while "error" not in (message := leaver.receive()):
            assert "item" in message

        assert message["error"]["code"] == "unauthenticated"
        assert leaver.refusal("server.hello") == "unauthenticated"


def test_stream_outlived_its_deadline(server: Server, peer: Peer) -> None:
    agent = peer.result("agent.spawn", {"spec": {"command": list(SLEEP)}})["id"]

    assert peer.ask("agent.follow", {"id": agent}, id="f", deadline_s=0.1)["stream"]

    assert peer.receive()["error"]["code"] == "deadline_exceeded"


def test_stop_given_up_by_its_caller_goes_on(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=sh("trap '' TERM; echo ready; while :; do sleep 1; done"))
        until_output(client, agent.id, b"ready")

        with pytest.raises(DeadlineExceededError):
            client.agent.stop(id=agent.id, grace_s=60.0, deadline_s=0.2)

        assert client.agent.get(id=agent.id).state == "stopping"
        assert client.agent.kill(id=agent.id).state == "terminated"


def test_server_could_not_be_stopped_before_the_longest_grace_time(server: Server) -> None:
    assert server.process is not None
    with server.client() as client:
        agent = client.agent.spawn(
            spec=sh(
                "trap '' TERM; echo ready; while :; do sleep 1; done", stop=StopSpec(grace_s=3600.0)
            )
        )
        until_output(client, agent.id, b"ready")
        server.process.send_signal(signal.SIGTERM)
        until_state(client, agent.id, "running")
        eventually(lambda: logged(server, "server.stopping"))

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(timeout=10) == 0
    assert not alive(agent.pid or 0)


def test_server_on_an_ipv6_address_failed_its_self_test() -> None:
    with Server() as server:
        server.environ["DESCARTES_SERVER__ENDPOINT"] = f"tcp://[::1]:{server.port}"
        server.start(wait=False)
        with server.client(server.local, wait_for_server_s=10.0) as client:
            assert client.server.health().listeners[0] == f"tcp://[::1]:{server.port}"


def test_runtime_directory_made_at_the_start_kept_everybody_else_out() -> None:
    with Server() as server:
        run = server.directory / "run"
        shutil.rmtree(run)

        server.start()

        assert stat.S_IMODE(run.stat().st_mode) == 0o755


@pytest.mark.parametrize("key", ["STATE_DIR", "LOCAL_SOCKET", "RUN_DIR"])
def test_directory_that_cannot_be_ended_in_a_traceback(key: str) -> None:
    with Server() as server:
        environ = server.environ | {f"DESCARTES_SERVER__{key}": "/dev/null/none"}

        refused = subprocess.run(
            [BIN / "descartesd", "--config", server.config],
            capture_output=True,
            text=True,
            env=environ,
            timeout=20,
            check=False,
        )

    assert refused.returncode == 78
    assert refused.stderr.startswith("error: cannot start: '/dev/null")
    assert "Traceback" not in refused.stderr


def test_server_stayed_degraded_after_one_failed_look_up(server: Server) -> None:
    trust = server.directory / "state" / "trust"
    away = server.directory / "state" / "away"
    trust.rename(away)
    with server.client(server.local) as local:
        with server.client(connect_timeout_s=0.3) as client, pytest.raises(UnavailableError):
            client.server.hello()
        assert local.server.health().status == "degraded"

        away.rename(trust)
        with server.client() as client:
            client.server.hello()

        assert local.server.health().status == "ok"


def test_server_stayed_degraded_after_the_end_of_an_agent_it_did_not_know(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
    server.kill()
    # The audit log with it, whose signed head is in there.
    for name in ("registry.sqlite*", "audit.jsonl"):
        for file in (server.directory / "state").glob(name):
            file.unlink()
    server.start()

    with server.client() as client:
        assert "1 agents this server has no record of" in client.server.health().reasons[0]
        os.kill(agent.pid or 0, signal.SIGKILL)

        eventually(lambda: client.server.health().status == "ok")


def test_terminal_that_was_closed_left_agents_behind(server: Server) -> None:
    assert server.process is not None
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))

    for _ in range(3):
        server.process.send_signal(signal.SIGHUP)

    assert server.process.wait(timeout=10) == 0
    assert not alive(agent.pid or 0)


def is_killed(client: Client, agent: str) -> bool:
    """Kill an agent; false while the connection to the keeper is being made anew."""
    try:
        return client.agent.kill(id=agent).state == "terminated"
    except (AbortedError, UnavailableError):
        return False
