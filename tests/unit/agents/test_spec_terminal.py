"""What a spec of an agent on a terminal asks of the keeper, and of which keeper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from descartesd.agents.spec import Given, RunnerDefaults, check, launch_fields
from descartesd.errors import ConflictError, UnimplementedError
from descartesd.wire.agent import AgentSpec, Tty
from tests.support.scriptedkeeper import record
from tests.unit.agents.test_list_beside_requests import Scene, run

DEFAULTS = RunnerDefaults(working_dir="/", path=("/usr/bin",), output_bytes=1_000_000)


def fields_of(**fields: Any) -> dict[str, Any]:
    wanted = AgentSpec(command=["true"], **fields)
    check(wanted, DEFAULTS.backends)
    return launch_fields(wanted, "0" * 20, "worker", DEFAULTS, Given())


def environment(fields: dict[str, Any]) -> dict[str, str]:
    return {**fields["env"], **fields.get("env_over", {})}


def test_terminal_is_asked_for_with_a_kind_programs_know() -> None:
    plain = fields_of()
    on_tty = fields_of(tty=Tty(rows=30, cols=100))
    own = fields_of(tty=Tty(), env={"TERM": "dumb"})

    assert "tty" not in plain
    assert "TERM" not in environment(plain)
    assert on_tty["tty"] == {"rows": 30, "cols": 100}
    assert environment(on_tty)["TERM"] == "xterm-256color"
    assert own["tty"] == {"rows": 24, "cols": 80}
    assert environment(own)["TERM"] == "dumb"


def test_what_is_left_is_ended_unless_it_is_to_be_kept() -> None:
    assert "on_exit" not in fields_of()
    assert fields_of(on_exit="keep")["on_exit"] == "keep"


def test_resize_needs_a_terminal_and_an_agent_that_has_not_ended(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        piped, ended = record(1), record(2, "completed", eof=True)
        scene.load(piped, ended)

        with pytest.raises(ConflictError, match="agent 'a1' has no terminal"):
            await scene.fleet.resize(piped, 30, 100)
        with pytest.raises(ConflictError, match="completed"):
            await scene.fleet.resize(ended, 30, 100)

        assert not scene.keeper.of("resize")

    run(tmp_path, test)


def test_keeper_of_an_earlier_version_is_asked_for_nothing_it_would_not_heed(
    tmp_path: Path,
) -> None:
    async def test(scene: Scene) -> None:
        scene.link.version = "1.0"

        await scene.link.spawn(agent_id="a", env={"A": "1", "B": "1"}, env_over={"B": "2"})
        with pytest.raises(UnimplementedError, match=r"version 1\.0 .* has no 'tty'"):
            await scene.link.spawn(agent_id="b", env={}, env_over={}, tty={"rows": 1, "cols": 1})

        (heard,) = scene.keeper.of("spawn")
        assert heard["env"] == {"A": "1", "B": "2"}
        assert "env_over" not in heard

    run(tmp_path, test)
