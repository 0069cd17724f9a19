from __future__ import annotations

import pytest

from descartesd.ctl.command import find_command, parse
from descartesd.ctl.selecting import is_one, selector, states, tell_if_none
from descartesd.errors import InvalidArgumentError
from descartesd.wire.batch import Selector
from tests.unit.ctl.test_output import Captured

STOP = find_command("acting", "stop")


def selected(*words: str) -> Selector | None:
    return selector(parse("agent stop", STOP, list(words), None), "stop")


def test_named_agents_are_no_selection() -> None:
    assert selected("a", "b") is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--all"], Selector(labels=[], all=True)),
        (["--owner", "uid:7"], Selector(labels=[], owner="uid:7")),
        (
            ["--state", "paused", "--state", "running"],
            Selector(labels=[], states=["paused", "running"]),
        ),
        (
            ["--label", "a=b", "--label", "c in (d, e)", "--label", "!f"],
            Selector(labels=["a=b", "c in (d, e)", "!f"]),
        ),
    ],
)
def test_conditions_are_sent_as_typed(words: list[str], expected: Selector) -> None:
    assert selected(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no agent is named"),
        (["--dry-run", "--fail-fast"], "no agent is named"),
        (["a", "--all"], "agents are named and selected"),
        (["--owner", "", "a"], "agents are named and selected"),
    ],
)
def test_agents_are_either_named_or_selected(words: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        selected(*words)

    assert caught.value.hint == "see: descartesctl agent stop --help"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a"], True),
        (["a", "--fail-fast"], True),
        (["a", "--dry-run"], False),
        (["a", "b"], False),
        (["--all"], False),
    ],
)
def test_one_agent_alone_is_acted_on_directly(words: list[str], expected: bool) -> None:
    assert is_one(parse("agent stop", STOP, words, None)) is expected


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("pausd", "did you mean 'paused'"),
        ("RUNNING", "did you mean 'running'"),
        ("running, paused", "repeat the option: --state running --state paused"),
    ],
)
def test_state_nobody_knows_is_told_with_what_was_meant(word: str, hint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"there is no state '{word}'") as caught:
        states(parse("agent stop", STOP, ["--state", word], None))

    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("words", "found", "quiet", "told"),
    [
        (["--label", "a=b"], [], False, b"no agent matches\n"),
        (["--state", "failed"], [], False, b"no agent matches\n"),
        (["--owner", "uid:7"], [], False, b"no agent matches\n"),
        (["--label", "a=b"], [], True, b""),
        (["--label", "a=b"], [1], False, b""),
        (["a"], [], False, b""),
    ],
)
def test_conditions_that_hold_for_nobody_are_told(
    words: list[str], found: list[int], quiet: bool, told: bytes
) -> None:
    printed = Captured(quiet=quiet)

    tell_if_none(found, parse("agent stop", STOP, words, None), printed.output)

    assert printed.err == told
