"""Sessions with descartesctl: custom actions listed and run."""

from __future__ import annotations

import json
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.support.server import Server


def answer(done: CompletedProcess[bytes]) -> Any:
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return json.loads(done.stdout)


def test_actions_are_listed_with_role_and_parameters(shared_server: Server) -> None:
    table = answer(shared_server.ctl("--json", "action", "list"))
    header, *lines = shared_server.ctl("action", "list").stdout.decode().splitlines()
    quiet = shared_server.ctl("--quiet", "action", "list").stdout.decode().split()

    names = [action["name"] for action in table["actions"]]
    assert set(names) >= {"echo", "ping", "get_env"}
    assert header.split() == ["ACTION", "ROLE", "AGENT", "PARAMETERS", "SUMMARY"]
    assert [line.split()[0] for line in lines] == names == quiet


def test_parameters_are_text_or_json(shared_server: Server) -> None:
    done = answer(
        shared_server.ctl("--json", "action", "run", "echo", "text=1", "n:=1", 'more:={"a": [2]}')
    )

    assert done == {
        "action": "echo",
        "result": {"text": "1", "n": 1, "more": {"a": [2]}},
        "agent_id": None,
    }


def test_result_is_printed_for_people(shared_server: Server) -> None:
    assert shared_server.ctl("action", "run", "ping").stdout == b"pong\n"


def test_action_on_an_agent_names_it(shared_server: Server) -> None:
    spawned = answer(
        shared_server.ctl("--json", "agent", "spawn", "--name", "a", "--", "sleep", "60")
    )

    done = answer(shared_server.ctl("--json", "action", "run", "get_env", "--agent", "a"))
    quiet = shared_server.ctl("--quiet", "action", "run", "get_env", "--agent", "a")
    shared_server.ctl("agent", "kill", "a")
    shared_server.ctl("agent", "remove", "a")

    assert done["agent_id"] == spawned["id"]
    assert quiet.stdout.decode() == f"{spawned['id']}\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["nothing"], 3),
        (["get_env"], 2),
        (["get_env", "--agent", "nobody"], 3),
        (["echo", "text"], 2),
        (["echo", "text:=hello"], 2),
    ],
)
def test_action_that_cannot_be_run_is_refused(
    shared_server: Server, words: list[str], status: int
) -> None:
    done = shared_server.ctl("action", "run", *words)

    assert done.returncode == status, done.stderr.decode()
    assert done.stderr.startswith(b"error: ")
    assert done.stdout == b""
