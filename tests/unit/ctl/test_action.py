from __future__ import annotations

import pytest

from descartesd.ctl.action import _lines, _params
from descartesd.ctl.parameters import parameters
from descartesd.errors import InvalidArgumentError


def test_parameter_is_text_or_behind_a_colon_json() -> None:
    words = ["a=1", "b:=1", "c:=[true, null]", "d=", "e=x=y", 'f:="z"', "g=:=1"]

    assert _params(words) == {
        "a": "1",
        "b": 1,
        "c": [True, None],
        "d": "",
        "e": "x=y",
        "f": "z",
        "g": ":=1",
    }


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("hunter2", "is not of the form K=V or K:=JSON"),
        ("=hunter2", "is not of the form K=V or K:=JSON"),
        (":=hunter2", "is not of the form K=V or K:=JSON"),
        ("a:=hunter2", "is not valid JSON behind ':='"),
        ("a:=" + "[" * 100_000, "is not valid JSON behind ':='"),
    ],
)
def test_malformed_parameter_is_named_by_its_place_and_never_shown(word: str, fault: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _params(["ok=1", word])

    assert caught.value.message == f"parameter number 2 {fault}"
    assert "hunter2" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({"text": "hi", "n": [1]}, ["text  hi", "n     [1]"]),
        ("two\nlines\x1b", ["two", "lines\\x1b"]),
        ({}, ["{}"]),
        (None, ["null"]),
        (1.5, ["1.5"]),
    ],
)
def test_result_is_shown_as_lines_and_escaped(result: object, lines: list[str]) -> None:
    assert _lines(result) == lines


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"type": "object"}, []),
        ({"type": "object", "properties": {"a": {}, "b": {}}}, ["a", "b"]),
        ({"$ref": "#/$defs/P", "$defs": {"P": {"properties": {"a": {}}}}}, ["a"]),
    ],
)
def test_names_of_parameters_come_from_the_schema(
    schema: dict[str, object], names: list[str]
) -> None:
    assert parameters(schema) == names
