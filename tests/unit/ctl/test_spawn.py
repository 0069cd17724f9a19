from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.ctl.command import find_command, parse
from descartesd.ctl.spawn import _spec
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec, Limits, Restart, StopSpec

SPAWN = find_command("spawn", "spawn")


def spec(*words: str) -> AgentSpec:
    return _spec(parse("agent spawn", SPAWN, list(words), ["sleep", "1"]))


def test_spec_without_options_has_the_defaults() -> None:
    assert spec() == AgentSpec(command=["sleep", "1"])


def test_each_option_has_its_place_in_the_spec() -> None:
    assert spec(
        "--name", "a", "--cwd", "/srv", "--env", "A=1", "--label", "job=x", "--stdin",
        "--output-bytes", "10M", "--open-files", "32", "--stop-signal", "2", "--grace", "1m",
    ) == AgentSpec(
        command=["sleep", "1"],
        name="a",
        cwd="/srv",
        env={"A": "1"},
        labels={"job": "x"},
        stdin="pipe",
        limits=Limits(output_bytes=10 * 1024**2, open_files=32),
        stop=StopSpec(signal=2, grace_s=60.0),
    )  # fmt: skip


def test_restart_and_priority_have_their_place_in_the_spec() -> None:
    asked = spec(
        "--restart", "on-failure", "--restart-delay", "1m", "--max-restarts", "3",
        "--priority", "-7",
    )  # fmt: skip

    assert asked.restart == Restart(policy="on-failure", delay_s=60.0, max_restarts=3)
    assert asked.priority == -7
    assert spec("--restart", "never") == spec()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "99999999999G"], "--memory: expected at most 1125899906842624"),
        (["--tasks", "9" * 20], "--tasks: expected at most 4194304"),
        (["--tokens", "9" * 20], "--tokens: expected at most 9007199254740992"),
        (["--priority", "9" * 20], "--priority: expected at most 100"),
        (
            ["--restart", "always", "--max-restarts", "9" * 20],
            "--max-restarts: expected at most 1000000000",
        ),
    ],
)
def test_number_that_is_too_large_is_refused_with_the_most_there_is(
    words: list[str], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        spec(*words)


@pytest.mark.parametrize("policy", [[], ["--restart", "never"]], ids=["none", "never"])
def test_how_to_restart_needs_that_it_is_restarted(policy: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="--max-restarts"):
        spec(*policy, "--max-restarts", "3")


def test_wait_and_follow_exclude_each_other() -> None:
    with pytest.raises(InvalidArgumentError, match="not allowed with argument"):
        spec("--wait", "--follow")


def test_relative_directory_needs_a_server_on_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = "0" * 40
    local, remote = tmp_path / "local.toml", tmp_path / "remote.toml"
    local.write_text('endpoints = ["ipc:///run/x/control.sock"]\n')
    remote.write_text(
        'endpoints = ["ipc:///run/x/control.sock", "tcp://127.0.0.1:5555"]\n'
        f'server_keys = ["{key}"]\npublic_key = "{key}"\nsecret_key = "{key}"\n'
    )
    remote.chmod(0o600)

    assert spec("--profile", str(local), "--cwd", "sub/..").cwd == str(tmp_path)
    with pytest.raises(InvalidArgumentError, match="--cwd 'sub' is relative"):
        spec("--profile", str(remote), "--cwd", "sub")


def test_empty_directory_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="--cwd is empty"):
        spec("--cwd", "")
