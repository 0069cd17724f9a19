"""The restart policy: who is started again, and after how long."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.lifecycle import ENDED
from descartesd.agents.restart import LEAST_S, Next, delay_s, following, is_wanted
from descartesd.wire.agent import Reason, Restart, State

POLICIES = st.builds(
    Restart,
    policy=st.sampled_from(["never", "on-failure", "always"]),
    delay_s=st.floats(0, 31_536_000),
    factor=st.floats(1, 100),
    max_delay_s=st.floats(0, 31_536_000),
    jitter=st.floats(0, 1),
    reset_after_s=st.floats(0, 31_536_000),
    max_restarts=st.integers(0, 10),
)
NUMBERS = st.integers(1, 1_000_000)
DRAWS = st.floats(0, 1)


@pytest.mark.parametrize(
    ("policy", "state", "reason", "wanted"),
    [
        ("never", "failed", "exit", False),
        ("never", "lost", "keeper_lost", False),
        ("on-failure", "completed", "exit", False),
        ("on-failure", "failed", "exit", True),
        ("on-failure", "failed", "signal", True),
        ("on-failure", "failed", "out_of_memory", True),
        ("on-failure", "failed", "no_result", True),
        ("on-failure", "failed", "spawn_error", False),
        ("on-failure", "lost", "host_lost", True),
        ("always", "completed", "exit", True),
        ("always", "failed", "exit", True),
        ("always", "lost", "keeper_lost", True),
        ("always", "failed", "spawn_error", False),
        ("always", "terminated", "run_time_limit", False),
    ],
)
def test_policy_tells_who_is_started_again(
    policy: str, state: State, reason: Reason, wanted: bool
) -> None:
    assert is_wanted(Restart(policy=policy), state, reason) is wanted  # type: ignore[arg-type]


@given(POLICIES, st.sampled_from(sorted(ENDED)), st.sampled_from(get_args(Reason)))
def test_nobody_who_was_ended_is_started_again(
    policy: Restart, state: State, reason: Reason
) -> None:
    if state == "terminated" or policy.policy == "never":
        assert not is_wanted(policy, state, reason)
    if is_wanted(policy, state, reason) and policy.policy == "on-failure":
        assert state in ("failed", "lost")


@given(POLICIES, NUMBERS, DRAWS)
def test_delay_is_never_more_than_the_most_and_its_jitter_nor_less_than_the_least(
    policy: Restart, number: int, draw: float
) -> None:
    delay = delay_s(policy, number, draw)

    most = max(policy.max_delay_s * (1 + policy.jitter), LEAST_S)
    assert LEAST_S <= delay <= most + 1e-6


@given(POLICIES, NUMBERS)
def test_delay_grows_from_restart_to_restart(policy: Restart, number: int) -> None:
    middle = 0.5

    first, second = (delay_s(policy, each, middle) for each in (number, number + 1))
    assert first <= second + 1e-9 * (second + 1)


@given(POLICIES, NUMBERS, DRAWS, DRAWS)
def test_delay_is_spread_by_the_jitter(
    policy: Restart, number: int, one: float, other: float
) -> None:
    middle = delay_s(policy, number, 0.5)

    most = policy.jitter * middle + 1e-9 * (middle + 1)
    for draw in (one, other):
        assert abs(delay_s(policy, number, draw) - middle) <= most


def test_default_delays_double_up_to_a_minute() -> None:
    delays = [delay_s(Restart(policy="always"), number, 0.5) for number in range(1, 9)]

    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])


def test_a_long_attempt_begins_the_count_anew() -> None:
    policy = Restart(policy="always", jitter=0, reset_after_s=60)

    assert following(policy, in_a_row=5, ran_s=59.9, draw=0.5) == Next(6, 32.0)
    assert following(policy, in_a_row=5, ran_s=60, draw=0.5) == Next(1, 1.0)


@given(POLICIES, st.integers(0, 20), st.floats(0, 1e9), DRAWS)
def test_it_gives_up_after_so_many_in_a_row(
    policy: Restart, in_a_row: int, ran_s: float, draw: float
) -> None:
    after = following(policy, in_a_row=in_a_row, ran_s=ran_s, draw=draw)

    is_short = ran_s < policy.reset_after_s
    is_enough = is_short and policy.max_restarts and in_a_row >= policy.max_restarts
    assert (after is None) == bool(is_enough)
    if after is not None:
        assert after.in_a_row == (in_a_row + 1 if is_short else 1)
