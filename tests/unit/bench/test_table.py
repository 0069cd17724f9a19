from __future__ import annotations

from tests.bench import table
from tests.bench.figures import Figure, Pair, at_least, at_most, compare, not_measured


def test_the_ratio_of_a_row_is_the_median_of_its_rounds() -> None:
    figure = compare("a", "req/s", [Pair(100, 50), Pair(100, 90), Pair(10, 20)], at_least(0.9))

    assert (figure.ours, figure.reference, figure.ratio) == (50, 100, 0.9)
    assert figure.verdict == "ok"


def test_a_budget_without_a_ratio_bounds_the_value() -> None:
    assert Figure("a", "ms", 10.0, budget=at_most(10)).verdict == "ok"
    assert Figure("a", "ms", 10.1, reference=1.0, budget=at_most(10)).verdict == "MISS"


def test_what_was_not_measured_neither_keeps_nor_misses() -> None:
    figure = not_measured("a : b", "b is not here")

    assert figure.verdict == ""
    first, note = table.line(figure).splitlines()
    assert first.split() == ["a", ":", "b", "-"]
    assert note.strip() == "not measured: b is not here"


def test_markdown_is_a_table_of_six_columns() -> None:
    figures = [
        Figure("a", "req/s", 5055.4, 5397.0, 0.94, at_least(0.6), "p99 0.33 ms", "p99 1 ms"),
        Figure("b", "ms", 12.34, budget=at_most(10)),
        not_measured("c", "no network"),
    ]

    text = table.markdown({"cpus": 2, "kernel": "6.18"}, figures)

    assert text.splitlines() == [
        "Measured on: cpus 2, kernel 6.18.",
        "",
        "| row | ours | reference | ratio | limit | |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 5055 req/s, p99 0.33 ms | 5397 req/s, p99 1 ms | 0.94 | ≥ 0.6 | kept |",
        "| b | 12.34 ms | | | ≤ 10 | missed |",
        "| c | not measured: no network | | | | |",
    ]
