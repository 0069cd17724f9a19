"""The table of states."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.lifecycle import ALIVE, ENDED, TRANSITIONS, require, step
from descartesd.errors import ConflictError
from descartesd.wire.agent import State

STATES: tuple[State, ...] = get_args(State)


def test_table_knows_every_state() -> None:
    assert set(TRANSITIONS) == set(STATES)
    assert set().union(*TRANSITIONS.values()) <= set(STATES)


def test_no_process_is_held_for_an_ended_agent() -> None:
    assert set(STATES) > ALIVE | ENDED
    assert not ALIVE & ENDED


@given(st.sampled_from(STATES), st.sampled_from(STATES))
def test_step_follows_the_table(current: State, following: State) -> None:
    if following in TRANSITIONS[current]:
        assert step(current, following) == following
    else:
        with pytest.raises(ValueError, match=f"no transition from {current} to {following}"):
            step(current, following)


@given(st.lists(st.integers(0, 10), max_size=40))
def test_every_walk_reaches_an_end_state_or_can(choices: list[int]) -> None:
    state: State = "starting"
    for choice in choices:
        following = sorted(TRANSITIONS[state])
        state = step(state, following[choice % len(following)])

    reachable, frontier = {state}, [state]
    while frontier:
        for after in TRANSITIONS[frontier.pop()] - reachable:
            reachable.add(after)
            frontier.append(after)
    assert reachable & ENDED


def test_an_ended_agent_goes_on_only_by_respawn() -> None:
    for state in ENDED:
        assert TRANSITIONS[state] == {"queued"}


def test_refusal_names_state_and_what_is_needed() -> None:
    with pytest.raises(ConflictError) as caught:
        require("build-7", "completed", verb="pause", allowed=("running", "paused"))

    assert caught.value.message == "agent 'build-7' is completed: pause needs running or paused"
    assert caught.value.details == {"state": "completed", "allowed": ["running", "paused"]}
