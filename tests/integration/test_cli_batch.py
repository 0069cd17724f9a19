"""Sessions with descartesctl: one verb on many agents, named or selected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.support.server import Server

Ctl = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def ctl(shared_server: Server) -> Iterator[Ctl]:
    """Run descartesctl with three agents there; afterwards every agent is gone."""
    for name, job in (("a", "x"), ("b", "y"), ("c", "y")):
        words = ("agent", "spawn", "--name", name, "--label", f"job={job}", "--", "sleep", "60")
        assert shared_server.ctl(*words).returncode == 0
    yield shared_server.ctl
    with shared_server.client() as client:
        for agent in client.agent.list().agents:
            client.agent.kill(id=agent.id)
            client.agent.remove(id=agent.id)


def answer(done: CompletedProcess[bytes], status: int = 0) -> Any:
    """The one JSON document a command printed."""
    assert done.returncode == status, done.stderr.decode()
    assert done.stderr == b""
    return json.loads(done.stdout)


def states(ctl: Ctl) -> dict[str, str]:
    return {agent["name"]: agent["state"] for agent in answer(ctl("--json", "ps"))["agents"]}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--all"], "abc"),
        (["--label", "job=y"], "bc"),
        (["--label", "job!=y"], "a"),
        (["--label", "job in (x, y)", "--label", "job notin (y)"], "a"),
        (["--label", "job", "--label", "!keep"], "abc"),
        (["--state", "running", "--label", "job=x"], "a"),
        (["--state", "failed"], ""),
        (["--owner", "nobody"], ""),
    ],
)
def test_verb_reaches_exactly_the_agents_selected(
    ctl: Ctl, words: list[str], expected: str
) -> None:
    dry = answer(ctl("--json", "agent", "pause", "--dry-run", *words))
    untouched = states(ctl)
    paused = answer(ctl("--json", "agent", "pause", *words))

    assert [item["agent"]["name"] for item in dry["results"]] == list(expected)
    assert set(untouched.values()) == {"running"}
    assert [item["agent"]["name"] for item in paused["results"]] == list(expected)
    assert (paused["succeeded"], paused["failed"]) == (len(expected), 0)
    assert states(ctl) == {name: "paused" if name in expected else "running" for name in untouched}


def test_list_selects_by_the_same_conditions(ctl: Ctl) -> None:
    owner = answer(ctl("--json", "agent", "show", "a"))["owner"]

    def names(*words: str) -> list[str]:
        listing = answer(ctl("--json", "agent", "list", *words))
        return [agent["name"] for agent in listing["agents"]]

    assert names("--label", "job in (x, z)") == ["a"]
    assert names("--label", "job!=x", "--owner", owner) == ["b", "c"]
    assert names("--owner", "uid:4242") == []


def test_selection_of_nothing_succeeds_and_prints_an_empty_result(ctl: Ctl) -> None:
    people = ctl("agent", "stop", "--label", "job=z")

    assert answer(ctl("--json", "agent", "stop", "--label", "job=z")) == {
        "results": [],
        "succeeded": 0,
        "failed": 0,
    }
    assert people.returncode == 0
    assert len(people.stdout.splitlines()) == 1
    assert people.stderr == ctl("ps", "--label", "job=z").stderr == b"no agent matches\n"
    assert ctl("--quiet", "agent", "stop", "--label", "job=z").stderr == b""


@pytest.mark.parametrize("words", [[], ["a", "--all"], ["--label", "job in"], ["--state", "zz"]])
def test_selection_that_makes_no_sense_is_a_usage_error_and_does_nothing(
    ctl: Ctl, words: list[str]
) -> None:
    done = ctl("--json", "agent", "kill", *words)

    assert done.returncode == 2
    assert json.loads(done.stderr)["error"]["code"] == "invalid_argument"
    assert set(states(ctl).values()) == {"running"}


def test_failed_item_gives_the_status_and_the_rest_goes_on_unless_told(ctl: Ctl) -> None:
    ctl("agent", "kill", "a")

    stopped_at_once = answer(ctl("--json", "agent", "pause", "--all", "--fail-fast"), 7)
    after = states(ctl)
    gone_on = answer(ctl("--json", "agent", "pause", "--all"), 7)

    assert stopped_at_once["results"][0]["error"]["code"] == "conflict"
    assert stopped_at_once["succeeded"] == 0
    assert after == {"a": "terminated", "b": "running", "c": "running"}
    assert [item["ok"] for item in gone_on["results"]] == [False, True, True]
    assert (gone_on["succeeded"], gone_on["failed"]) == (2, 1)


def test_ended_agents_are_started_once_more_under_their_names(ctl: Ctl) -> None:
    before = {item["name"]: item["id"] for item in answer(ctl("--json", "ps"))["agents"]}
    ctl("agent", "kill", "--all")

    one = answer(ctl("--json", "agent", "respawn", "a"))
    others = answer(ctl("--json", "agent", "respawn", "--state", "terminated"))
    refused = ctl("agent", "respawn", "a")

    assert (one["id"], one["state"], one["attempt"]) == (before["a"], "running", 2)
    assert {item["agent"]["id"] for item in others["results"]} == {before["b"], before["c"]}
    assert refused.returncode == 7
    assert b"descartesctl agent stop a" in refused.stderr


def test_repeated_respawn_under_a_key_starts_once(ctl: Ctl) -> None:
    ctl("agent", "kill", "a")

    first, second = (
        answer(ctl("--json", "agent", "respawn", "--idem", "again-1", "a")) for _ in range(2)
    )

    assert first["attempt"] == second["attempt"] == 2
    assert first["pid"] == second["pid"]


def test_signal_and_stop_take_their_parameters_along(ctl: Ctl) -> None:
    signalled = answer(ctl("--json", "agent", "signal", "KILL", "--label", "job=x"))
    answer(ctl("--json", "agent", "wait", "a"), 1)
    stopped = answer(ctl("--json", "agent", "stop", "--signal", "INT", "--grace", "5", "b", "c"))
    removed = answer(ctl("--json", "agent", "remove", "--all"))

    assert signalled["succeeded"] == 1
    assert {item["agent"]["outcome"]["signal"] for item in stopped["results"]} == {2}
    assert {item["agent"]["state"] for item in removed["results"]} == {"failed", "terminated"}
    assert states(ctl) == {}
