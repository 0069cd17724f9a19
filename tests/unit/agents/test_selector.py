"""Conditions on agents, in the syntax and with the meaning of Kubernetes' label selectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import pytest

from descartesd.agents.record import Agent
from descartesd.agents.selector import matcher
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec, State


def agent(
    labels: Mapping[str, str] | None = None, state: State = "running", owner: str = "uid:7"
) -> Agent:
    return Agent(
        id="0" * 20,
        name="one",
        owner=owner,
        spec=AgentSpec(command=["true"], labels=dict(labels or {})),
        created_at=1.0,
        state=state,
    )


WEB = {"app": "web", "tier": "front", "example.org/blue": ""}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("app=web", True), ("app==web", True), ("app = web", True), ("app=db", False),
        ("other=web", False), ("example.org/blue=", True), ("app=", False),
        ("app!=db", True), ("app != web", False), ("other!=web", True),
        ("app in (web, db)", True), ("app in (db)", False), ("other in (web)", False),
        ("app in(web,db)", True), ("example.org/blue in (, x)", True),
        ("app notin (db, cache)", True), ("app notin (web)", False), ("other notin (web)", True),
        ("app", True), (" app ", True), ("other", False), ("in", False), ("in in (a)", False),
        ("!other", True), ("! other", True), ("!app", False),
    ],
)  # fmt: skip
def test_condition_means_what_kubernetes_says(condition: str, holds: bool) -> None:
    assert matcher([condition], [], None)(agent(WEB)) is holds


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "=web", "app=web db", "app in", "app in web", "app in (web", "app in (w(b)",
        "appin (web)", "!app=web", "app=web,tier=front", "-app", "app=w*", "app in (a b)",
        "app in (w*)", "app=" + "x" * 256, "x" * 64, "app=web\n=", "äpp",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"(?s)^select\.labels\[1\]: '.*expected"):
        matcher(["app", text], [], None, field="select.labels")


@pytest.mark.parametrize(
    ("labels", "states", "owner", "holds"),
    [
        ({}, [], None, True),
        ([], [], None, True),
        ({"app": "web", "tier": "front"}, [], None, True),
        ({"app": "web", "tier": "back"}, [], None, False),
        ({"other": ""}, [], None, False),
        (["app=web", "!other"], [], None, True),
        (["app=web", "other"], [], None, False),
        ({}, ["paused", "running"], None, True),
        ({}, ["paused"], None, False),
        ({}, [], "uid:7", True),
        ({}, [], "uid:70", False),
        (["app"], ["running"], "uid:7", True),
        (["app"], ["running"], "uid:8", False),
    ],
)
def test_every_condition_must_hold(
    labels: Mapping[str, str] | Sequence[str],
    states: Sequence[State],
    owner: str | None,
    holds: bool,
) -> None:
    assert matcher(labels, states, owner)(agent(WEB)) is holds


@pytest.mark.parametrize(
    "text", ["k" + " " * 4094 + "!", "k in (" + "," * 4089 + "*", "k" + "=" * 4095]
)
def test_a_hostile_condition_is_refused_at_once(text: str) -> None:
    began = time.perf_counter()

    with pytest.raises(InvalidArgumentError):
        matcher([text] * 64, [], None)

    assert time.perf_counter() - began < 0.5


def test_thousands_of_agents_are_looked_through_in_no_time() -> None:
    agents = [agent({"app": "web", "number": str(number)}) for number in range(5000)]
    is_meant = matcher(["app=web", "number in (1, 2, 3)", "!other"], ["running"], "uid:7")

    began = time.perf_counter()
    found = [each for each in agents if is_meant(each)]

    assert time.perf_counter() - began < 0.25
    assert [each.spec.labels["number"] for each in found] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("team=x y", "labels[0]: 'x y' cannot be a label's value: expected up to 255 ", None),
        ("team!=ä", "labels[0]: 'ä' cannot be a label's value: expected up to 255 ", None),
        ("team=x,tier=y", "labels[0]: 'team=x,tier=y' is no condition: ", "--label A --label B"),
        ("team=x tier=y", "labels[0]: 'team=x tier=y' is no condition: ", "--label A --label B"),
    ],
)
def test_refused_condition_tells_its_fault(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        matcher([text], [], None)

    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint if hint else caught.value.hint is None
