"""Figures as text: a plain table, line by line as they come, or one in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.bench.figures import Figure

_LINE = "{:<48} {:>16} {:>16} {:>7} {:>8}  {}"
_NOTHING = "-"
_MARKDOWN_HEAD = (
    "| row | ours | reference | ratio | limit | |",
    "| --- | --- | --- | --- | --- | --- |",
)
_WORDS = {"ok": "kept", "MISS": "missed"}


def head() -> str:
    """The first line."""
    return _LINE.format("ROW", "OURS", "REFERENCE", "RATIO", "BUDGET", "").rstrip()


def line(figure: Figure) -> str:
    """One figure, its notes indented below it."""
    first = _LINE.format(
        figure.row,
        _amount(figure.ours, figure.unit) or _NOTHING,
        _amount(figure.reference, figure.unit),
        "" if figure.ratio is None else f"{figure.ratio:.3f}",
        "" if figure.budget is None else str(figure.budget),
        figure.verdict,
    )
    return "\n".join([first.rstrip(), *(f"    {note}" for note in figure.notes)])


def markdown(machine: Mapping[str, object], figures: Iterable[Figure]) -> str:
    """The machine in a sentence, and the table."""
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    return "\n".join([f"Measured on: {about}.", "", *_MARKDOWN_HEAD, *map(_row, figures)])


def _row(figure: Figure) -> str:
    cells = (
        figure.row,
        _with_detail(_amount(figure.ours, figure.unit), figure.detail) or "; ".join(figure.notes),
        _with_detail(_amount(figure.reference, figure.unit), figure.reference_detail),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        "" if figure.budget is None else str(figure.budget).replace(">=", "≥").replace("<=", "≤"),
        _WORDS.get(figure.verdict, ""),
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _with_detail(amount: str, detail: str) -> str:
    return f"{amount}, {detail}" if amount and detail else amount


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = next(n for n, least in enumerate((1000, 100, 1, 0)) if value >= least)
    return f"{value:.{digits}f} {unit}"
