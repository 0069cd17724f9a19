"""Words of the command line become what is asked of a backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.ctl.backend import secrets
from descartesd.ctl.command import find_command, parse
from descartesd.ctl.spawn import _spec
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec

SPAWN = find_command("spawn", "spawn")


def spec(*words: str) -> AgentSpec:
    return _spec(parse("agent spawn", SPAWN, list(words), None))


def test_each_option_has_its_place_in_the_spec(tmp_path: Path) -> None:
    subagents = tmp_path / "subagents.json"
    subagents.write_text('{"a": {}}')

    assert spec(
        "--backend", "claude", "--task=-x", "--model", "m", "--system-prompt", "s",
        "--context", "c", "--tools", "full", "--subagents", str(subagents),
        "--extra-arg=-a", "--extra-arg", "b", "--chat", "--env-file", "/e",
        "--secret-env", "B", "--secret-env", "A", "--secret-env", "B",
    ) == AgentSpec(
        backend="claude",
        task="-x",
        model="m",
        system_prompt="s",
        context="c",
        tools="full",
        subagents='{"a": {}}',
        extra_args=["-a", "b"],
        chat=True,
        env_file="/e",
        secret_env=["A", "B"],
    )  # fmt: skip


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"--subagents: '.*none': No such file"):
        spec("--backend", "claude", "--subagents", str(tmp_path / "none"))


def test_secrets_are_taken_from_our_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "planted")
    monkeypatch.delenv("B_TOKEN", raising=False)

    assert secrets(["A_TOKEN"]) == {"A_TOKEN": "planted"}
    with pytest.raises(InvalidArgumentError, match="B_TOKEN is not in the") as missing:
        secrets(["A_TOKEN", "B_TOKEN"])
    assert "planted" not in missing.value.message
