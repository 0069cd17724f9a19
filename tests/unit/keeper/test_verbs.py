"""What the operations on one agent accept."""

from __future__ import annotations

import pytest

from descartesd.errors import InvalidArgumentError, NotFoundError
from tests.unit.keeper.harness import Keeper

VERBS: dict[str, dict[str, object]] = {
    "signal": {"signal": 15},
    "pause": {},
    "resume": {},
    "stop": {"signal": 15, "grace_s": 1.0},
    "kill": {},
    "fence": {"deadline": None},
    "write": {"data": b"x"},
    "close_stdin": {},
}


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_agent_is_not_found(keeper: Keeper, verb: str) -> None:
    with pytest.raises(NotFoundError, match="no agent 'nobody'"):
        keeper.ask(verb, agent_id="nobody", **VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_agent_id_is_needed(keeper: Keeper, verb: str) -> None:
    with pytest.raises(InvalidArgumentError, match="agent_id: expected"):
        keeper.ask(verb, **VERBS[verb])


@pytest.mark.parametrize(
    ("verb", "fields", "sentence"),
    [
        ("signal", {"signal": 0}, "signal: expected an integer from 1 to 64, got 0"),
        ("signal", {"signal": "TERM"}, "signal: expected an integer from 1 to 64, got str"),
        ("signal", {}, "signal: expected an integer"),
        ("stop", {"signal": 65}, "signal: expected an integer"),
        ("stop", {"grace_s": "long"}, "grace_s: expected a number of seconds, got str"),
        ("fence", {}, "deadline: expected seconds of CLOCK_BOOTTIME or null"),
        ("fence", {"deadline": "soon"}, "deadline: expected a number of seconds"),
        ("write", {}, "data: expected bytes, got NoneType"),
        ("write", {"data": b"", "writer": 7}, "writer: expected a text"),
    ],
)
def test_wrong_field_is_named_and_nothing_happens(
    keeper: Keeper, verb: str, fields: dict[str, object], sentence: str
) -> None:
    agent_id = keeper.spawn("sleep", "60", stdin="pipe")
    before = keeper.status(agent_id)

    with pytest.raises(InvalidArgumentError) as error:
        keeper.ask(verb, agent_id=agent_id, **fields)

    assert error.value.message.startswith(sentence)
    assert keeper.status(agent_id) == before


def test_fence_of_an_exited_agent_changes_nothing(keeper: Keeper) -> None:
    agent_id = keeper.run("true")["agent_id"]

    assert keeper.ask("fence", agent_id=agent_id, deadline=1.0) == {}
    assert (keeper.status(agent_id) or {})["ended_by"] is None
