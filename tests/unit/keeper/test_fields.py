"""What a request's fields may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.keeper import fields


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda f: fields.text(f, "k"), "grüß"),
        (lambda f: fields.texts(f, "k"), ["a", ""]),
        (lambda f: fields.number(f, "k", least=-1), -1),
        (lambda f: fields.seconds(f, "k"), 1.5),
        (lambda f: fields.environment(f, "k"), {"A": "b=c", "B": ""}),
        (lambda f: fields.mapping(f, "k"), {"a": 1}),
        (lambda f: fields.mappings(f, "k"), [{}, {"a": 1}]),
        (lambda f: fields.data(f, "k"), b"\0"),
    ],
)
def test_right_values_come_back_unchanged(read: Callable[[Any], Any], value: object) -> None:
    assert read({"k": value}) == value


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (lambda f: fields.text(f, "k"), [None, 1, b"a", "a\0b"]),
        (lambda f: fields.texts(f, "k", least=1), [None, [], "ab", [1], ["a", b"b"], ["a", "b\0"]]),
        (lambda f: fields.number(f, "k"), [None, True, "1", 1.0, -1, 2**63]),
        (lambda f: fields.seconds(f, "k"), [None, True, "1", -1, math.inf, math.nan]),
        (
            lambda f: fields.environment(f, "k"),
            [
                *(None, [], {"": "x"}, {"a=": "x"}, {"a": 1}, {1: "a"}, {b"a": "x"}),
                *({"a": "x", "b\0": "x"}, {"a": "x\0"}, {"a": "x", "b": None}),
            ],
        ),
        (lambda f: fields.mapping(f, "k"), [1, "a", []]),
        (lambda f: fields.mappings(f, "k"), [None, {}, [1]]),
        (lambda f: fields.data(f, "k"), [None, "a", [1]]),
    ],
)
def test_wrong_values_are_refused_by_the_fields_name(
    read: Callable[[Any], Any], values: list[object]
) -> None:
    for value in values:
        with pytest.raises(InvalidArgumentError, match=r"^k: expected "):
            read({"k": value})


@pytest.mark.parametrize("value", ["a", "A-b_9", "x" * 64])
def test_agent_ids_that_may_be_file_names(value: str) -> None:
    assert fields.agent_id({"agent_id": value}) == value


@pytest.mark.parametrize("value", ["", "-", ".", "..", "a/b", "a.b", "ä", "x" * 65, "a\n", None, 1])
def test_agent_ids_that_may_not(value: object) -> None:
    with pytest.raises(InvalidArgumentError):
        fields.agent_id({"agent_id": value})


def test_signal_numbers() -> None:
    assert fields.signum({"signal": 64}) == 64
    for value in (0, 65, "TERM", None):
        with pytest.raises(
            InvalidArgumentError, match=r"^signal: expected an integer from 1 to 64"
        ):
            fields.signum({"signal": value})


def test_missing_map_is_an_empty_one() -> None:
    assert fields.mapping({}, "k") == {}


def test_wrong_variable_is_named() -> None:
    for wrong, said in (
        ({"A": "x", "B=": "x"}, "names without '=' and NUL, got 'B='"),
        ({"A": "x", "B": "\0"}, "a text without NUL as value of 'B'"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"^k: expected {said}$"):
            fields.environment({"k": wrong}, "k")


def test_values_that_may_be_secret_are_not_shown() -> None:
    for wrong in ({"k": {"KEY": ["hunter2"]}}, {"k": ["KEY=hunter2"]}, {"k": "KEY=hunter2"}):
        with pytest.raises(InvalidArgumentError) as error:
            fields.environment(wrong, "k")
        assert "hunter2" not in error.value.message
    with pytest.raises(InvalidArgumentError) as error:
        fields.data({"k": "hunter2"}, "k")
    assert "hunter2" not in error.value.message
