"""Reading what agents wrote, while the keeper writes on and drops the oldest of it."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.output import OutputFiles, Piece
from descartesd.keeper import kernel
from descartesd.keeper.index import TimeIndex
from descartesd.keeper.protocol import data_path, index_path
from descartesd.wire.agent import StreamTotals

AGENT = "0123456789abcdefghij"
BLOCK = 4096


class Written:
    """The files of one stream, as the keeper writes them."""

    def __init__(self, directory: Path) -> None:
        self.files = OutputFiles(str(directory))
        self.path = Path(data_path(str(directory), AGENT, "stdout"))
        self.index = TimeIndex(index_path(str(directory), AGENT, "stdout"))

    def append(self, data: bytes, time: float | None = None) -> None:
        if time is not None:
            self.index.mark(self.path.stat().st_size if self.path.exists() else 0, time)
        with self.path.open("ab") as file:
            file.write(data)

    def drop_before(self, head: int) -> None:
        self.index.move_head(head)
        with self.path.open("r+b") as file:
            kernel.punch_hole(file.fileno(), 0, head)

    def read(self, offset: int = 0, limit: int = 1 << 20) -> Piece:
        return self.files.read(AGENT, "stdout", offset, limit)

    def tail(self, lines: int) -> int:
        return self.files.tail_offset(AGENT, "stdout", lines)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_agent_that_wrote_nothing_has_no_files_and_reads_as_empty(written: Written) -> None:
    assert written.read(5) == Piece(b"", 5, 0, 0, None)
    assert written.tail(10) == 0
    assert written.files.totals(AGENT, "stdout", kept=0) == StreamTotals()


def test_bytes_are_read_by_offset_and_limit(written: Written) -> None:
    written.append(b"0123456789")

    assert written.read() == Piece(b"0123456789", 0, 10, 0, None)
    assert written.read(3, 4) == Piece(b"3456", 3, 10, 0, None)
    assert written.read(10) == Piece(b"", 10, 10, 0, None)
    assert written.read(99) == Piece(b"", 99, 10, 0, None)


def test_reading_begins_at_the_first_byte_kept(written: Written) -> None:
    written.append(b"a" * BLOCK + b"b" * BLOCK)
    written.drop_before(BLOCK)

    assert written.read(0, 3) == Piece(b"bbb", BLOCK, 2 * BLOCK, BLOCK, None)
    assert written.read(BLOCK + 1, 2) == Piece(b"bb", BLOCK + 1, 2 * BLOCK, BLOCK, None)
    assert written.files.totals(AGENT, "stdout", kept=0) == StreamTotals(
        total=2 * BLOCK, truncated_before=BLOCK
    )


def test_bytes_have_the_time_of_the_last_entry_before_them(written: Written) -> None:
    for number in range(5):
        written.append(b"x" * 100, time=1000.0 + number)

    times = [written.read(offset, 1).time for offset in (0, 99, 100, 250, 499)]

    assert times == [1000.0, 1000.0, 1001.0, 1002.0, 1004.0]
    assert written.read(500).time is None


def test_entry_torn_by_a_crash_is_passed_over(written: Written, tmp_path: Path) -> None:
    written.append(b"x" * 10, time=7.0)
    with open(index_path(str(tmp_path), AGENT, "stdout"), "ab") as file:
        file.write(b"\xff" * 9)

    assert written.read(5).time == 7.0


def test_index_without_a_whole_header_drops_nothing(written: Written, tmp_path: Path) -> None:
    written.append(b"text")
    Path(index_path(str(tmp_path), AGENT, "stdout")).write_bytes(b"DXI1")

    assert written.read() == Piece(b"text", 0, 4, 0, None)


def test_reader_never_takes_a_hole_for_output(written: Written) -> None:
    blocks = 600

    def write_on() -> None:
        for number in range(blocks):
            written.append(bytes([1 + number % 255]) * BLOCK)
            if number >= 4:
                written.drop_before((number - 3) * BLOCK)

    writer = threading.Thread(target=write_on)
    writer.start()
    pieces = []
    while writer.is_alive():
        pieces.append(written.read(0, 2 * BLOCK))
    writer.join()

    for piece in pieces:
        for at, byte in enumerate(piece.data):
            if byte != 1 + (piece.offset + at) // BLOCK % 255:
                raise AssertionError(f"byte {piece.offset + at} reads as {byte}")
    assert len({piece.offset for piece in pieces}) > 1


@pytest.mark.parametrize(
    ("text", "lines", "wanted"),
    [
        (b"one\ntwo\nthree\n", 1, b"three\n"),
        (b"one\ntwo\nthree\n", 2, b"two\nthree\n"),
        (b"one\ntwo\nthree", 1, b"three"),
        (b"one\ntwo\nthree", 0, b""),
        (b"one\ntwo\n", 9, b"one\ntwo\n"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"no newline at all", 1, b"no newline at all"),
    ],
)
def test_last_lines_begin_after_a_newline(
    written: Written, text: bytes, lines: int, wanted: bytes
) -> None:
    written.append(text)

    assert text[written.tail(lines) :] == wanted


@given(
    parts=st.lists(
        st.binary(max_size=20) | st.integers(65_500, 65_600).map(lambda n: b"x" * n), max_size=6
    ),
    lines=st.integers(0, 8),
)
def test_last_lines_are_those_a_person_would_count(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lines: int
) -> None:
    written = Written(tmp_path_factory.mktemp("output"))
    text = b"\n".join(parts)
    written.append(text)
    counted = re.findall(rb"[^\n]*\n|[^\n]+\Z", text)

    assert text[written.tail(lines) :] == b"".join(counted[max(len(counted) - lines, 0) :])


def test_last_lines_are_not_sought_in_what_is_dropped(written: Written) -> None:
    written.append(b"\n" * BLOCK + b"x" * BLOCK)
    written.drop_before(BLOCK)

    assert written.tail(3) == BLOCK


def test_last_lines_are_sought_in_eight_megabytes_at_most(written: Written) -> None:
    size = 9 * 1024 * 1024
    written.append(b"begin\n")
    os.truncate(written.path, size)

    assert written.tail(1) == size - 8 * 1024 * 1024


def test_file_name_is_the_last_part_of_the_path(written: Written) -> None:
    assert written.files.path(AGENT, "stdout") == str(written.path)
    assert OutputFiles.file_name(AGENT, "stdout") == written.path.name
