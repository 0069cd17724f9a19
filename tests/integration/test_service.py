"""A server as systemd runs it: what it is told, what it keeps, what survives a restart."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.wire.agent import Restart, StopSpec
from tests.support.agents import SLEEP, spec, until_output
from tests.support.eventually import eventually
from tests.support.manager import Managed, managed
from tests.support.server import BIN, Server, alive, free_port


def test_systemd_is_told_that_it_serves_and_how_it_is() -> None:
    with managed() as server, server.client() as client:
        assert server.hearing.status == "serving 0 agents, 0 clients"
        agent = client.agent.spawn(spec=spec(*SLEEP))
        eventually(lambda: server.hearing.status == "serving 1 agent, 1 client")
        client.agent.pause(id=agent.id)
        eventually(lambda: server.hearing.status == "serving 1 agent (1 paused), 1 client")
        client.agent.kill(id=agent.id)
        eventually(lambda: server.hearing.status == "serving 0 agents, 1 client")

        assert server.stop() == 0
        assert server.hearing.values("STOPPING") == ["1"]
        assert server.hearing.status == "stopping"
        assert int(server.hearing.values("EXTEND_TIMEOUT_USEC")[-1]) > 0


def test_what_does_not_work_stands_in_the_status() -> None:
    with managed() as server:
        (server.directory / "run" / "control.sock").unlink()

        eventually(lambda: "degraded: nobody can connect to ipc://" in server.hearing.status)


def test_missing_keys_are_made_by_who_is_told_so() -> None:
    with Server() as server:
        for name in ("host.key", "authority.key", "authority.pub"):
            (server.directory / "keys" / name).unlink()
        refused = subprocess.run(
            [BIN / "descartesd", "--config", server.config],
            capture_output=True,
            env=server.environ,
            check=False,
        )
        assert refused.returncode == 78

        server.environ["DESCARTES_SERVER__MAKE_MISSING_KEYS"] = "true"
        server.start(wait=False)
        with server.client(server.local, wait_for_server_s=30) as client:
            assert client.server.health().status == "ok"
        assert (server.directory / "keys/authority.key").stat().st_mode & 0o777 == 0o600


def test_failed_start_says_why_and_the_next_start_repeats_it() -> None:
    with Managed() as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        server.start(wait=False)
        assert server.process is not None
        assert server.process.wait(timeout=20) == 78
        said = f"port {server.port} on 127.0.0.1 is in use by another process"
        assert server.hearing.notices[-1] == {"STATUS": said, "ERRNO": "98"}
        assert server.hearing.values("READY") == []

        taken.close()
        server.start()
        assert server.hearing.values("STATUS")[0] == f"starting; the last start failed: {said}"
        server.stop()
        server.start()
        assert server.hearing.values("STATUS")[0] == "starting"


def test_configuration_that_is_refused_is_told_too() -> None:
    with Managed() as server:
        server.config.write_text("[server]\nmax_agent = 3\n")
        server.start(wait=False)
        assert server.process is not None
        assert server.process.wait(timeout=20) == 78

        assert "server.max_agent: unknown key" in server.hearing.status


def test_variables_of_systemd_reach_neither_keeper_nor_agent() -> None:
    with managed(watchdog_s=60) as server, server.client() as client:
        agent = client.agent.spawn(spec=spec("env"))
        client.agent.wait(id=agent.id)
        told = client.agent.output(id=agent.id, stream="stdout").data.decode()
        keeper = Path(f"/proc/{server.keeper_pid}/environ").read_text()

        for name in ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "RUNTIME_DIRECTORY"):
            assert name not in told
            assert name not in keeper


def test_watchdog_is_fed_three_times_as_often_as_it_must_be() -> None:
    with managed(watchdog_s=1.5) as server:
        eventually(lambda: len(server.hearing.values("WATCHDOG")) >= 3, timeout=3)
        server.stop()
        fed = len(server.hearing.values("WATCHDOG"))
        assert server.hearing.values("STOPPING") == ["1"]
        assert fed == len(server.hearing.values("WATCHDOG"))


def test_restart_keeps_the_listening_sockets_and_refuses_nobody() -> None:
    with managed() as server, server.client() as client:
        assert set(server.hearing.kept) == {"control-tcp-0", "control-unix"}
        key = client.server.hello().server_id
        inode = (server.directory / "run" / "control.sock").stat().st_ino
        server.stop()

        # Nobody serves, and yet nobody is refused.
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        with Client(str(server.local), timeout_s=20) as waiting:
            server.start()
            assert waiting.server.hello().server_id == key
        assert client.server.hello().server_id == key
        assert (server.directory / "run" / "control.sock").stat().st_ino == inode
        assert server.hearing.values("FDSTORE") == []
        assert [len(fds) for fds in server.hearing.kept.values()] == [1, 1]


def test_killed_daemon_comes_back_on_the_same_sockets() -> None:
    with managed() as server, server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        server.kill()
        server.start()

        assert client.agent.get(id=agent.id).pid == agent.pid
        assert server.hearing.values("FDSTORE") == []


def test_kept_socket_that_is_configured_no_longer_is_given_up() -> None:
    with managed() as server:
        server.stop()
        old, server.port = server.port, free_port()
        server.environ["DESCARTES_SERVER__ENDPOINT"] = server.endpoint
        server.start()

        assert server.hearing.values("FDSTOREREMOVE") == ["1"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", old))
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        assert [len(fds) for fds in server.hearing.kept.values()] == [1, 1]


def test_kept_unix_socket_whose_file_is_gone_is_made_anew() -> None:
    with managed() as server:
        server.stop()
        (server.directory / "run" / "control.sock").unlink()
        server.start()

        with server.client(server.local) as client:
            assert client.server.health().status == "ok"


def test_socket_unit_that_listens_elsewhere_is_refused() -> None:
    with Managed() as server, socket.create_server(("127.0.0.1", 0)) as elsewhere:
        server.hearing.kept["descartesd.socket"] = [elsewhere.detach()]
        server.start(wait=False)
        assert server.process is not None
        assert server.process.wait(timeout=20) == 78

        assert "which the configuration does not name" in server.hearing.status


def test_socket_unit_is_served_and_not_kept_twice() -> None:
    with Managed() as server, socket.create_server(("127.0.0.1", server.port)) as unit:
        server.hearing.kept["descartesd.socket"] = [unit.detach()]
        server.start()

        assert server.hearing.values("FDNAME") == ["control-unix"]
        with server.client() as client:
            assert client.server.health().status == "ok"


def test_keeper_of_its_own_outlives_a_stop_and_its_last_words_count() -> None:
    with Managed() as server:
        keeper_socket = server.root / "keeper.sock"
        server.environ["DESCARTES_SERVER__KEEPER_SOCKET"] = str(keeper_socket)
        server.environ["DESCARTES_SERVER__OUTPUT_DIR"] = str(server.root / "output")
        server.start()
        with server.client() as client:
            health = client.server.health()
            assert health.status == "degraded"
            assert str(keeper_socket) in health.checks["keeper"]
            assert "no keeper answers" in server.hearing.status
            output = server.root / "output"
            command = [BIN / "descartes-keeper", "--socket", keeper_socket, "--output-dir", output]
            keeper = subprocess.Popen(command, env=server.environ)
            try:
                eventually(lambda: client.server.health().status == "ok", timeout=10)
                agent = client.agent.spawn(spec=spec("sh", "-c", "echo told; exec sleep 300"))
                server.stop()
                assert alive(agent.pid or 0)
                server.start()
                assert client.agent.get(id=agent.id).state == "running"
                assert client.agent.output(id=agent.id, stream="stdout").data == b"told\n"
                client.agent.kill(id=agent.id)
                always = Restart(policy="always")
                again = client.agent.spawn(spec=spec(*SLEEP, restart=always))
                server.stop()
            finally:
                keeper.terminate()
                assert keeper.wait(timeout=20) == 0
            keeper = subprocess.Popen(command, env=server.environ)
            try:
                server.start()
                ended = client.agent.get(id=again.id)
                assert ended.outcome is not None
                assert (ended.state, ended.outcome.reason) == ("terminated", "stopped")
                assert ended.outcome.signal == signal.SIGTERM
            finally:
                server.stop()
                keeper.terminate()
                assert keeper.wait(timeout=20) == 0


def test_fault_66_blocked_loop_does_not_feed_the_watchdog() -> None:
    with managed(watchdog_s=1.5) as server:
        assert server.process is not None
        eventually(lambda: len(server.hearing.values("WATCHDOG")) >= 2)
        server.process.send_signal(signal.SIGSTOP)
        before = len(server.hearing.values("WATCHDOG"))
        with pytest.raises(AssertionError):
            eventually(lambda: len(server.hearing.values("WATCHDOG")) > before, timeout=2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGCONT)

        eventually(lambda: len(server.hearing.values("WATCHDOG")) > before)
        assert time.monotonic() - began < 5


def test_stop_that_takes_its_time_asks_for_it_again_and_again() -> None:
    with managed() as server, server.client() as client:
        script = "trap '' TERM; echo on; while :; do sleep 0.1; done"
        agent = client.agent.spawn(spec=spec("sh", "-c", script, stop=StopSpec(grace_s=3.5)))
        until_output(client, agent.id, b"on")
        before = len(server.hearing.values("EXTEND_TIMEOUT_USEC"))
        assert server.process is not None

        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.hearing.status == "stopping: 1 agent left", timeout=20)
        assert server.process.wait(timeout=60) == 0

        told = server.hearing.values("EXTEND_TIMEOUT_USEC")[before:]
        assert len(told) >= 3
        assert server.hearing.status == "stopping"


def test_start_says_what_it_is_at_and_asks_for_time() -> None:
    with managed() as server:
        told = server.hearing.values("STATUS")

        assert told[:4] == [
            "starting",
            "starting: reading the registry",
            "starting: reading the audit log",
            "starting: agreeing with the keeper",
        ]
        assert len(server.hearing.values("EXTEND_TIMEOUT_USEC")) >= 5
