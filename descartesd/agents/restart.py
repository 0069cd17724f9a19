"""The restart policy: whether an agent that ended is started again, and after how long."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from descartesd.wire.agent import Reason, Restart, State

# What ends at once must not keep the host busy with starts.
LEAST_S = 0.1
_FAILURES: Final[frozenset[State]] = frozenset(("failed", "lost"))


class Next(NamedTuple):
    """A further start: which one in a row it is, from 1, and the seconds to wait for it."""

    in_a_row: int
    delay_s: float


def is_wanted(policy: Restart, state: State, reason: Reason) -> bool:
    """Whether an agent that ended so is to run again; never one that was ended, or cannot start."""
    if state == "terminated" or reason == "spawn_error":
        return False
    return policy.policy == "always" or (policy.policy == "on-failure" and state in _FAILURES)


def following(policy: Restart, *, in_a_row: int, ran_s: float, draw: float) -> Next | None:
    """The restart after an attempt of `ran_s` seconds; None when there have been enough.

    `in_a_row` restarts came before. `draw`, from 0 to 1, tells where between its least and its most
    the delay is.
    """
    number = 1 if ran_s >= policy.reset_after_s else in_a_row + 1
    if policy.max_restarts and number > policy.max_restarts:
        return None
    return Next(number, delay_s(policy, number, draw))


def delay_s(policy: Restart, number: int, draw: float) -> float:
    """Seconds to wait before the `number`-th restart in a row."""
    spread = 1 + policy.jitter * (2 * draw - 1)
    return max(min(_grown(policy, number - 1), policy.max_delay_s) * spread, LEAST_S)


def _grown(policy: Restart, times: int) -> float:
    if policy.delay_s == 0:
        return 0.0
    # In logarithms: a power may be more than any float.
    grown = math.log(policy.delay_s) + times * math.log(policy.factor)
    most = math.log(policy.max_delay_s) if policy.max_delay_s else -math.inf
    return policy.max_delay_s if grown >= most else policy.delay_s * policy.factor**times
