"""Ids and generated names."""

from __future__ import annotations

import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.ids import IdSource, name_for
from descartesd.wire.agent import NAME_PATTERN, AgentRef


def test_ids_ascend_within_one_millisecond_and_over_a_clock_set_back() -> None:
    times = iter([5.0, 5.0, 5.0, 4.0, 3.0, 6.0])
    source = IdSource(clock=lambda: next(times))

    made = [source.next() for _ in range(6)]

    assert made == sorted(set(made))


def test_id_is_twenty_characters_and_a_valid_reference() -> None:
    made = IdSource().next()

    assert re.fullmatch(r"[0-9a-v]{20}", made)
    assert msgspec.convert({"id": made}, AgentRef).id == made


@given(st.text(max_size=60))
def test_any_program_gives_a_valid_name(program: str) -> None:
    assert re.search(NAME_PATTERN, name_for(program))


def test_name_tells_the_program() -> None:
    assert re.fullmatch(r"claude-[0-9a-v]{5}", name_for("/usr/local/bin/claude"))
