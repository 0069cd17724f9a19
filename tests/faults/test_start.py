"""A daemon that must not start says why, with exit status 78, and harms nobody."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import SLEEP, spec
from tests.support.server import BIN, Server, alive, free_port

REFUSED = 78


def descartesd(
    *arguments: str | Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the daemon, which has to end by itself."""
    return subprocess.run(
        [BIN / "descartesd", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=20,
        check=False,
    )


@pytest.fixture(scope="module")
def made() -> Iterator[Server]:
    """A server directory whose server never runs; each test leaves it as it was."""
    with Server() as server:
        yield server


def started(server: Server, **changes: str) -> subprocess.CompletedProcess[str]:
    """Try to start the daemon of a directory."""
    return descartesd("--config", server.config, environ=server.environ | changes)


def sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said on stderr, line by line; nothing of it is a traceback."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same endpoint", "another endpoint"])
def test_fault_69_second_daemon_on_the_same_state_is_refused_and_the_first_serves_on(
    server: Server, elsewhere: bool
) -> None:
    changes = {"DESCARTES_SERVER__ENDPOINT": f"tcp://127.0.0.1:{free_port()}"} if elsewhere else {}
    files = sorted(path for path in server.directory.rglob("*") if "output" not in str(path))
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        keeper = server.keeper_pid

        refused = started(server, **changes)

        said = sentences(refused)
        assert refused.returncode == REFUSED
        assert said[0] == (
            f"error: another descartesd runs on the state directory '{server.directory / 'state'}'"
        )
        assert said[1].startswith("hint: ")
        assert client.agent.get(id=agent.id).pid == agent.pid
        assert client.server.health().status == "ok"
    with server.client(server.local) as client:
        assert client.agent.get(id=agent.id).state == "running"
    assert server.keeper_pid == keeper
    after = sorted(path for path in server.directory.rglob("*") if "output" not in str(path))
    assert after == files


def test_fault_69_state_is_free_again_after_a_kill(server: Server) -> None:
    server.kill()

    server.start()

    with server.client() as client:
        assert client.server.health().status == "ok"


def test_port_in_use_is_refused_with_the_next_step(made: Server) -> None:
    with socket.create_server(("127.0.0.1", made.port)):
        refused = started(made)

    said = sentences(refused)
    assert refused.returncode == REFUSED
    assert said[0] == f"error: port {made.port} on 127.0.0.1 is in use by another process"
    assert said[1].startswith("hint: ")
    assert "server.endpoint" in said[1]
    assert made.keeper_pid is None


def test_port_in_use_leaves_the_agents_of_a_crashed_daemon_alone(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
    assert agent.pid is not None
    server.kill()

    with socket.create_server(("127.0.0.1", server.port)):
        refused = started(server)

    assert refused.returncode == REFUSED
    assert alive(agent.pid)
    server.start()
    with server.client() as client:
        assert client.agent.get(id=agent.id).state == "running"


def test_init_of_a_directory_that_is_one_already_changes_nothing(made: Server) -> None:
    before = {path: path.read_bytes() for path in made.directory.rglob("*") if path.is_file()}

    refused = descartesd("init", made.directory)

    assert refused.returncode == 7
    assert sentences(refused)[0].startswith("error: ")
    assert str(made.directory) in refused.stderr
    after = {path: path.read_bytes() for path in made.directory.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("[server.runner]\nworkin_dir = '/tmp'\n", "workin_dir"),
        ("[limits]\nmax_output_buffer_bytes = 'much'\n", "max_output_buffer_bytes"),
        ("[monitoring]\nlog_level = 'loud'\n", "log_level"),
        ("[nonsense]\nkey = 1\n", "nonsense"),
        ("[backends.x]\ncommand = ['x']\nchat = ['x']\n", "descartesd.toml: backends.x.say: "),
    ],
    ids=["unknown key", "wrong type", "wrong value", "unknown section", "half a chat"],
)
def test_faulty_configuration_is_refused_naming_the_key(
    made: Server, tmp_path: Path, lines: str, key: str
) -> None:
    config = tmp_path / "descartesd.toml"
    config.write_text(f"[server]\nendpoint = '{made.endpoint}'\n{lines}")

    refused = descartesd("--config", config, environ=made.environ)
    checked = descartesd("--config", config, "--check-config", environ=made.environ)

    assert refused.returncode == REFUSED
    assert key in sentences(refused)[0]
    assert checked.returncode == 2
    assert sentences(checked) == sentences(refused)
    assert [path.name for path in tmp_path.iterdir()] == ["descartesd.toml"]


def test_every_fault_of_a_configuration_is_told_at_once(made: Server) -> None:
    refused = started(
        made, DESCARTES_SERVER__MAX_AGENTS="none", DESCARTES_MONITORING__LOG_FORMAT="xml"
    )

    assert refused.returncode == REFUSED
    assert "max_agents" in refused.stderr
    assert "log_format" in refused.stderr


def test_check_of_a_good_configuration_starts_nothing(made: Server) -> None:
    checked = descartesd("--config", made.config, "--check-config", environ=made.environ)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert made.keeper_pid is None


def test_missing_configuration_is_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"

    refused = descartesd("--config", absent)

    assert refused.returncode == REFUSED
    assert str(absent) in sentences(refused)[0]


def test_key_others_can_read_is_refused(made: Server) -> None:
    key = made.directory / "keys" / "host.key"
    key.chmod(0o644)
    try:
        refused = started(made)
    finally:
        key.chmod(0o600)

    assert refused.returncode == REFUSED
    assert str(key) in sentences(refused)[0]
    assert "chmod" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_told_to_stop_it_ends_with_status_0_and_leaves_no_socket(
    server: Server, number: signal.Signals
) -> None:
    assert server.process is not None
    keeper = server.keeper_pid
    assert keeper is not None

    os.kill(server.process.pid, number)

    assert server.process.wait(timeout=10) == 0
    assert not alive(keeper)
    assert not (server.directory / "run" / "control.sock").exists()
    assert not (server.directory / "run" / "keeper.sock").exists()
