"""Sessions with descartesctl: agents started, listed, controlled and removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.support.server import Server

Ctl = Callable[..., CompletedProcess[bytes]]
COLUMNS = ["ID", "NAME", "STATE", "AGE", "PID", "OUTCOME", "COMMAND"]


@pytest.fixture
def ctl(shared_server: Server) -> Iterator[Ctl]:
    """Run descartesctl; afterwards every agent is gone."""
    yield shared_server.ctl
    with shared_server.client() as client:
        for agent in client.agent.list().agents:
            client.agent.kill(id=agent.id)
            client.agent.remove(id=agent.id)


def answer(done: CompletedProcess[bytes], status: int = 0) -> Any:
    """The one JSON document a command printed."""
    assert done.returncode == status, done.stderr.decode()
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1
    return json.loads(done.stdout)


def refusal(done: CompletedProcess[bytes], status: int) -> dict[str, Any]:
    """The one JSON line of an error."""
    assert done.returncode == status, done.stderr.decode()
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    error: dict[str, Any] = json.loads(done.stderr)["error"]
    return error


def test_spawned_agent_is_printed_in_each_manner(ctl: Ctl) -> None:
    table = ctl("agent", "spawn", "--name", "plain", "--", "sleep", "60")
    agent = answer(ctl("--json", "agent", "spawn", "--name", "json", "--", "sleep", "60"))
    quiet = ctl("agent", "spawn", "--quiet", "--", "sleep", "60")

    header, row = table.stdout.decode().splitlines()
    assert header.split() == COLUMNS
    assert row.split()[1:3] == ["plain", "running"]
    assert row.endswith("  sleep 60")
    assert (agent["name"], agent["state"], agent["spec"]["command"]) == (
        "json",
        "running",
        ["sleep", "60"],
    )
    assert len(quiet.stdout) == 21
    assert quiet.stdout.strip().isalnum()


def test_options_of_spawn_reach_the_spec(ctl: Ctl, tmp_path: Path) -> None:
    spec = answer(
        ctl(
            "--json", "agent", "spawn", "--cwd", tmp_path, "--env", "A=x=y", "--env", "B=",
            "--label", "job=nightly", "--stdin", "--output-bytes", "1M", "--open-files", "64",
            "--stop-signal", "INT", "--grace", "1m30s", "--", "cat", "--json", "--",
        )
    )["spec"]  # fmt: skip

    limits = {name: value for name, value in spec.pop("limits").items() if value}
    given = {
        "command": ["cat", "--json", "--"],
        "cwd": str(tmp_path),
        "env": {"A": "x=y", "B": ""},
        "labels": {"job": "nightly"},
        "stdin": "pipe",
        "stop": {"signal": "INT", "grace_s": 90.0},
    }
    assert {name: spec[name] for name in given} == given
    assert limits == {"open_files": 64, "output_bytes": 1048576}


def test_relative_cwd_is_made_absolute_over_the_unix_socket_alone(
    ctl: Ctl, shared_server: Server
) -> None:
    here = str(Path.cwd())

    local = answer(
        ctl("--json", "agent", "spawn", "--cwd", ".", "--", "true", profile=shared_server.local)
    )
    remote = refusal(ctl("--json", "agent", "spawn", "--cwd", "sub", "--", "true"), 2)

    assert local["spec"]["cwd"] == here
    assert remote["message"].startswith("--cwd 'sub' is relative")
    assert f"{here}/sub" in remote["hint"]


def test_spawn_that_waits_has_the_agents_success_as_status(ctl: Ctl) -> None:
    good = answer(ctl("--json", "agent", "spawn", "--wait", "--", "true"))
    bad = answer(ctl("--json", "agent", "spawn", "--wait", "--", "sh", "-c", "exit 3"), 1)

    assert good["state"] == "completed"
    assert (bad["state"], bad["outcome"]["exit_code"]) == ("failed", 3)


def test_spawn_that_cannot_start_is_refused_and_takes_no_name(ctl: Ctl) -> None:
    error = refusal(ctl("--json", "agent", "spawn", "--name", "x", "--", "/no/such/program"), 2)

    assert error["code"] == "invalid_argument"
    assert answer(ctl("--json", "agent", "list")) == {"agents": [], "total": 0}


def test_repeated_spawn_with_one_key_starts_one_agent(ctl: Ctl) -> None:
    words = ("--quiet", "agent", "spawn", "--idem", "once", "--", "sleep", "60")

    first, second = ctl(*words), ctl(*words)

    assert first.stdout == second.stdout
    assert answer(ctl("--json", "ps"))["total"] == 1


def test_taken_name_is_refused_unless_replaced(ctl: Ctl) -> None:
    words = ("agent", "spawn", "--name", "one", "--", "sleep", "60")
    first = answer(ctl("--json", *words))

    error = refusal(ctl("--json", *words), 7)
    second = answer(ctl("--json", "agent", "spawn", "--replace", *words[2:]))

    assert error["code"] == "already_exists"
    assert second["name"] == "one"
    assert second["id"] != first["id"]


def test_value_of_an_environment_variable_is_in_no_error(ctl: Ctl) -> None:
    for words in (
        ["--env", "hunter2", "--", "true"],
        ["--env", "A=1", "B=hunter2", "--", "true"],
        ["--env", "1A=hunter2", "--", "true"],
        ["--evn", "A=hunter2", "--", "true"],
    ):
        done = ctl("agent", "spawn", *words)

        assert done.returncode == 2
        assert b"hunter2" not in done.stdout + done.stderr


def test_list_selects_by_state_and_label_and_ps_is_the_same(ctl: Ctl) -> None:
    ctl("agent", "spawn", "--name", "a", "--label", "job=x", "--", "sleep", "60")
    ctl("agent", "spawn", "--name", "b", "--label", "job=y", "--", "sleep", "60")
    ctl("agent", "pause", "b")

    def names(*words: str) -> list[str]:
        listing = answer(ctl("--json", *words))
        assert listing["total"] == len(listing["agents"])
        return [agent["name"] for agent in listing["agents"]]

    assert names("agent", "list") == ["a", "b"]
    assert names("ps") == names("agent", "ps") == ["a", "b"]
    assert names("agent", "list", "--state", "paused") == ["b"]
    assert names("agent", "list", "--state", "paused", "--state", "running") == ["a", "b"]
    assert names("ps", "--label", "job=x") == ["a"]
    assert ctl("ps", "--state", "failed").stdout.decode().split() == COLUMNS


def test_list_has_every_page(ctl: Ctl, shared_server: Server) -> None:
    with shared_server.client() as client:
        from descartesd.wire.agent import AgentSpawn, AgentSpec  # noqa: PLC0415
        from descartesd.wire.methods import AGENT_SPAWN  # noqa: PLC0415

        spec = AgentSpec(command=["true"])
        made = client.pipeline([(AGENT_SPAWN, AgentSpawn(spec=spec))] * 205)

    listing = answer(ctl("--json", "agent", "list"))

    assert listing["total"] == 205
    assert {agent["id"] for agent in listing["agents"]} == {agent.id for agent in made}
    with shared_server.client() as client:
        for agent in made:
            client.agent.wait(id=agent.id)
            client.agent.remove(id=agent.id)


def test_show_prints_everything_but_secrets_for_people(ctl: Ctl) -> None:
    ctl("agent", "spawn", "--name", "a", "--env", "T=hunter2", "--", "echo", "\x1b[31m")
    ctl("agent", "wait", "a")

    done = ctl("agent", "show", "a")
    shown = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())

    assert shown["state"] == "completed"
    assert shown["outcome"] == "exit 0"
    assert shown["env"] == "T"
    assert "\\x1b[31m" in shown["command"]
    assert b"hunter2" not in done.stdout
    assert answer(ctl("--json", "agent", "show", "a"))["outcome"]["exit_code"] == 0


@pytest.mark.parametrize(
    "verb", ["show", "wait", "logs", "write", "pause", "resume", "stop", "kill", "signal", "remove"]
)
def test_unknown_agent_is_not_found_for_every_verb(ctl: Ctl, verb: str) -> None:
    words = {"write": [verb, "nobody", "x"], "signal": [verb, "HUP", "nobody"]}

    error = refusal(ctl("--json", "agent", *words.get(verb, [verb, "nobody"])), 3)

    assert error["code"] == "not_found"
    assert "nobody" in error["message"]


def test_verb_on_one_agent_prints_the_agent(ctl: Ctl) -> None:
    ctl("agent", "spawn", "--name", "a", "--", "sleep", "60")

    states = [
        answer(ctl("--json", "agent", *words))["state"]
        for words in (
            ["pause", "a"],
            ["resume", "a"],
            ["signal", "CONT", "a"],
            ["stop", "--grace", "5", "a"],
            ["remove", "a"],
        )
    ]

    assert states == ["paused", "running", "running", "terminated", "terminated"]
    assert answer(ctl("--json", "agent", "list"))["total"] == 0


def test_signal_ends_an_agent_by_name_or_number(ctl: Ctl) -> None:
    for signal in ("KILL", "SIGKILL", "9"):
        ctl("agent", "spawn", "--name", "a", "--", "sleep", "60")

        assert ctl("agent", "signal", signal, "a").returncode == 0
        ended = answer(ctl("--json", "agent", "wait", "a"), 1)

        assert (ended["state"], ended["outcome"]["signal"]) == ("failed", 9)
        ctl("agent", "remove", "a")


def test_verb_on_several_agents_prints_results_and_the_status_of_the_first_failure(
    ctl: Ctl,
) -> None:
    ctl("agent", "spawn", "--name", "a", "--", "sleep", "60")
    ctl("agent", "spawn", "--name", "b", "--", "true")
    ctl("agent", "wait", "b")

    good = answer(ctl("--json", "agent", "kill", "a", "b"))
    mixed = answer(ctl("--json", "agent", "pause", "a", "nobody", "b"), 7)
    people = ctl("agent", "remove", "nobody", "a", "b")

    assert (good["succeeded"], good["failed"]) == (2, 0)
    assert [item["ok"] for item in good["results"]] == [True, True]
    assert [item["agent"]["state"] for item in good["results"]] == ["terminated", "completed"]
    assert (mixed["succeeded"], mixed["failed"]) == (0, 3)
    assert [(item["id"], item["error"]["code"]) for item in mixed["results"]] == [
        ("a", "conflict"),
        ("nobody", "not_found"),
        ("b", "conflict"),
    ]
    assert people.returncode == 3
    assert people.stderr.startswith(b"error: nobody: ")
    assert [line.split()[1] for line in people.stdout.decode().splitlines()[1:]] == ["a", "b"]


def test_several_agents_are_waited_for_at_the_same_time(ctl: Ctl) -> None:
    for name, end in (("a", "exit 0"), ("b", "exit 5"), ("c", "exit 0")):
        ctl("agent", "spawn", "--name", name, "--", "sh", "-c", f"sleep 0.5; {end}")

    done = answer(ctl("--json", "agent", "wait", "a", "b", "c"), 1)

    assert [item["agent"]["state"] for item in done["results"]] == [
        "completed",
        "failed",
        "completed",
    ]
    assert (done["succeeded"], done["failed"]) == (3, 0)


def test_wait_gives_up_after_its_timeout_and_leaves_the_agent(ctl: Ctl) -> None:
    ctl("agent", "spawn", "--name", "a", "--", "sleep", "60")

    error = refusal(ctl("--json", "--timeout", "200ms", "agent", "wait", "a"), 6)
    spawned = ctl(
        "--timeout", "0.3", "agent", "spawn", "--wait", "--name", "b", "--", "sleep", "60"
    )

    assert error["code"] == "deadline_exceeded"
    assert spawned.returncode == 6
    states = [agent["state"] for agent in answer(ctl("--json", "ps"))["agents"]]
    assert states == ["running", "running"]


def test_stop_waits_as_long_as_the_agents_own_grace(ctl: Ctl) -> None:
    ctl(
        "agent", "spawn", "--name", "a", "--grace", "1", "--",
        "sh", "-c", "trap '' TERM; sleep 60 & wait; wait",
    )  # fmt: skip

    stopped = answer(ctl("--json", "agent", "stop", "a"))

    assert stopped["state"] == "terminated"


def test_prefix_of_an_id_names_an_agent(ctl: Ctl) -> None:
    agent = answer(ctl("--json", "agent", "spawn", "--", "sleep", "60"))

    assert answer(ctl("--json", "agent", "show", agent["id"][:16]))["id"] == agent["id"]
