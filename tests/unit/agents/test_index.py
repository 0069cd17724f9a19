"""When which byte came, by the index the keeper writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.index import ENTRIES_ALL, ENTRY_S, Entry, entries_between, offset_since
from descartesd.agents.output import OutputFiles
from descartesd.keeper import index as keeper
from descartesd.keeper.protocol import data_path, index_path

AGENT = "0123456789abcdefghij"


class Written:
    """A stream as the keeper writes it, and when each byte really came."""

    def __init__(self, directory: Path) -> None:
        self.path = index_path(str(directory), AGENT, "stdout")
        self.data = Path(data_path(str(directory), AGENT, "stdout"))
        self.files = OutputFiles(str(directory))
        self.came: list[float] = []
        self._index = keeper.TimeIndex(self.path)

    def write(self, size: int, now: float) -> None:
        self._index.mark(len(self.came), now)
        self.came.extend([now] * size)
        with self.data.open("ab") as file:
            file.write(b"x" * size)

    def since(self, when: float) -> int:
        return self.files.since_offset(AGENT, "stdout", when)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_what_is_known_of_the_keeper_is_true() -> None:
    assert ENTRY_S == keeper.INTERVAL_S
    assert ENTRIES_ALL == keeper.ENTRIES_MAX // 4


def test_stream_without_a_byte_begins_at_its_beginning(written: Written) -> None:
    assert written.since(5.0) == 0
    assert written.files.times(AGENT, "stdout", 0, 10) == []


def test_stream_without_an_index_is_read_whole(written: Written) -> None:
    written.data.write_bytes(b"text")

    assert written.since(5.0) == 0


def test_old_output_before_a_silence_is_left_out(written: Written) -> None:
    written.write(100, 1000.0)
    written.write(50, 2000.0)

    assert written.since(999.0) == 0
    assert written.since(1000.05) == 0
    assert written.since(1000.5) == 100
    assert written.since(2000.0) == 100
    assert written.since(2000.5) == 150


def test_clock_that_was_set_back_leaves_nothing_out(written: Written) -> None:
    for size, now in ((10, 1000.0), (10, 5000.0), (10, 900.0), (10, 1100.0)):
        written.write(size, now)

    assert written.since(1050.0) == 10


def test_index_of_which_entries_are_left_out_is_not_relied_on(tmp_path: Path) -> None:
    written = Written(tmp_path)
    for number in range(ENTRIES_ALL):
        written.write(1, 1000.0 + number)

    assert written.since(1000.0 + ENTRIES_ALL - 0.5) == ENTRIES_ALL - 1


@given(
    writes=st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.01, 0.03, 0.09, 0.1, 1.0]))),
    since=st.floats(0, 10),
)
def test_nothing_that_came_since_is_left_out_and_little_else_comes_along(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, float]], since: float
) -> None:
    written = Written(tmp_path_factory.mktemp("output"))
    now = 1.0
    for size, pause in writes:
        now += pause
        written.write(size, now)

    start = written.since(since)

    assert all(came < since for came in written.came[:start])
    assert all(came > since - ENTRY_S - 1e-6 for came in written.came[start:])


def test_times_of_a_part_begin_with_the_entry_that_holds_it(written: Written) -> None:
    for number in range(5):
        written.write(10, 1000.0 + number)

    assert entries_between(written.path, 15, 31) == [
        Entry(10, 1001.0), Entry(20, 1002.0), Entry(30, 1003.0),
    ]  # fmt: skip
    assert entries_between(written.path, 15, 30) == [Entry(10, 1001.0), Entry(20, 1002.0)]
    assert entries_between(written.path, 15, 15) == []
    assert offset_since(written.path, 1e9, 50) == 50
