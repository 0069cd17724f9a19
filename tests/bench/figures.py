"""What a row of the benchmark found, and whether that is within its budget."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Budget(NamedTuple):
    """A bound of a figure; `sign` is >= or <=."""

    sign: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether the value is within the bound, as exactly as it was measured."""
        compare: Callable[[float, float], bool] = operator.ge if self.sign == ">=" else operator.le
        return compare(value, self.bound)

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


def at_least(bound: float) -> Budget:
    """The value must not be smaller."""
    return Budget(">=", bound)


def at_most(bound: float) -> Budget:
    """The value must not be larger."""
    return Budget("<=", bound)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line; `ours` is None where nothing could be measured, and the notes say why.

    The budget bounds `ratio` where there is one, otherwise `ours`. `detail` belongs to `ours` and
    `reference_detail` to `reference`: the latencies of a rate.
    """

    row: str
    unit: str
    ours: float | None
    reference: float | None = None
    ratio: float | None = None
    budget: Budget | None = None
    detail: str = ""
    reference_detail: str = ""
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """`ok`, `MISS`, or nothing where no budget is set or nothing was measured."""
        value = self.ours if self.ratio is None else self.ratio
        if self.budget is None or value is None:
            return ""
        return "ok" if self.budget.holds(value) else "MISS"


class Pair(NamedTuple):
    """One round: the same quantity of both sides, measured right after each other."""

    reference: float
    ours: float


def compare(
    row: str, unit: str, pairs: Iterable[Pair], budget: Budget | None, *, notes: Sequence[str] = ()
) -> Figure:
    """Median of the rounds' ratios, ours over the reference: a slow round slows both sides."""
    rounds = list(pairs)
    ratios = sorted(pair.ours / pair.reference for pair in rounds)
    spread = f"ratios of the {len(ratios)} rounds: {', '.join(f'{r:.2f}' for r in ratios)}"
    return Figure(
        row=row,
        unit=unit,
        ours=statistics.median(pair.ours for pair in rounds),
        reference=statistics.median(pair.reference for pair in rounds),
        ratio=statistics.median(ratios),
        budget=budget,
        notes=[*notes, spread],
    )


def not_measured(row: str, reason: str) -> Figure:
    """A row without figures; it neither keeps nor misses its budget."""
    return Figure(row, "", None, notes=[f"not measured: {reason}"])
