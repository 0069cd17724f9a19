"""What is written as TOML is read back as it was."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.config.toml_text import toml_key, toml_lines, toml_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(database=None, max_examples=200)
@given(TEXT)
def test_any_text_is_read_back(text: str) -> None:
    assert tomllib.loads(f"value = {toml_text(text)}") == {"value": text}


@settings(database=None, max_examples=200)
@given(TEXT)
def test_any_text_of_several_lines_is_read_back(text: str) -> None:
    assert tomllib.loads(f"value = {toml_lines(text)}") == {"value": text}


@pytest.mark.parametrize("value", [0, -5, 10_485_760, 0.1, 30.0, True, False])
def test_numbers_and_booleans_keep_their_type(value: float) -> None:
    read = tomllib.loads(f"value = {toml_text(value)}")["value"]

    assert (type(read), read) == (type(value), value)


def test_tables_and_times_are_read_back() -> None:
    table = {"a b": {"c": [1, {"d": date(2026, 1, 2)}]}, "e": datetime(2026, 1, 2, tzinfo=UTC)}

    assert tomllib.loads(f"{toml_key(('x', 'y.z'))} = {toml_text(table)}") == {"x": {"y.z": table}}


def test_a_list_is_read_back() -> None:
    texts = ["a", 'b"', ""]

    assert tomllib.loads(f"value = {toml_text(texts)}") == {"value": texts}
