"""What a hurried user does wrong in the first minutes, and what must not happen then."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec
from tests.support.server import BIN, Server

SLEEP = ["sleep", "300"]


@pytest.mark.parametrize(
    "wrong",
    [
        AgentSpec(name="build", command=["no-such-program"]),
        AgentSpec(name="build", command=["/no/such/program"]),
        AgentSpec(name="build", command=["/etc/passwd"]),
        AgentSpec(name="build", command=SLEEP, cwd="/no/such/directory"),
    ],
    ids=["program", "path", "no execute permission", "cwd"],
)
def test_replacing_by_what_cannot_start_leaves_the_running_agent(
    shared_server: Server, wrong: AgentSpec
) -> None:
    with shared_server.client() as client:
        first = client.agent.spawn(spec=AgentSpec(name="build", command=SLEEP))
        try:
            with pytest.raises(InvalidArgumentError):
                client.agent.spawn(spec=wrong, replace=True)

            kept = client.agent.get(id="build")
            assert (kept.id, kept.pid, kept.state) == (first.id, first.pid, "running")
        finally:
            client.agent.kill(id="build")
            client.agent.remove(id="build")


def test_replacing_by_what_can_start_replaces(shared_server: Server) -> None:
    with shared_server.client() as client:
        first = client.agent.spawn(spec=AgentSpec(name="again", command=SLEEP))
        second = client.agent.spawn(spec=AgentSpec(name="again", command=SLEEP), replace=True)

        assert second.id != first.id
        assert client.agent.get(id="again").id == second.id
        client.agent.kill(id="again")
        client.agent.remove(id="again")


def test_a_profile_with_a_key_never_becomes_the_local_user(
    shared_server: Server, tmp_path: Path
) -> None:
    profile = tmp_path / "ci.toml"

    done = shared_server.ctl("cert", "issue", "ci", "--role", "operator", "--out", profile)

    assert done.returncode == 0, done.stderr
    assert tomllib.loads(profile.read_text())["endpoints"] == [shared_server.endpoint]


def test_a_profile_that_cannot_be_written_costs_no_name(
    shared_server: Server, tmp_path: Path
) -> None:
    nowhere = tmp_path / "missing" / "x.toml"

    refused = shared_server.ctl("cert", "issue", "tmp", "--role", "operator", "--out", nowhere)
    done = shared_server.ctl(
        "cert", "issue", "tmp", "--role", "operator", "--out", tmp_path / "x.toml"
    )

    assert refused.returncode == 3
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["agent", "logs", "x", "--tail", "9" * 20],
        ["agent", "logs", "x", "--offset", "9" * 26],
        ["agent", "spawn", "--open-files", "9" * 23, "--", "true"],
        ["agent", "spawn", "--output-bytes", "99999999999T", "--", "true"],
        ["agent", "signal", "9" * 26, "x"],
    ],
    ids=["tail", "offset", "open files", "output bytes", "signal"],
)
def test_a_number_no_message_can_hold_is_a_usage_error(
    shared_server: Server, words: list[str]
) -> None:
    done = shared_server.ctl("--json", *words)

    assert done.returncode == 2
    assert json.loads(done.stderr)["error"]["code"] == "invalid_argument"


def test_init_without_a_name_makes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "descartesd", "init", ""], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "the directory's name is empty" in done.stderr
    assert not list(tmp_path.iterdir())
