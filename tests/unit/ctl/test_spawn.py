from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.ctl.command import find_command, parse
from descartesd.ctl.spawn import _spec
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec, Limits, StopSpec

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
