"""Prints figures as a plain table, line by line as they come."""

from __future__ import annotations

from tests.bench.figures import Figure

_LINE = "{:<26} {:>18} {:>18} {:>7} {:>8}  {}"


def head() -> str:
    """The first line."""
    return _LINE.format("ROW", "OURS", "REFERENCE", "RATIO", "BUDGET", "").rstrip()


def line(figure: Figure) -> str:
    """One figure, its notes indented below it."""
    reference = "" if figure.reference is None else _amount(figure.reference, figure.unit)
    first = _LINE.format(
        figure.row,
        _amount(figure.ours, figure.unit),
        reference,
        "" if figure.ratio is None else f"{figure.ratio:.3f}",
        "" if figure.budget is None else str(figure.budget),
        figure.verdict,
    )
    return "\n".join([first.rstrip(), *(f"    {note}" for note in figure.notes)])


def _amount(value: float, unit: str) -> str:
    digits = next(n for n, least in enumerate((1000, 100, 1, 0)) if value >= least)
    return f"{value:.{digits}f} {unit}"
