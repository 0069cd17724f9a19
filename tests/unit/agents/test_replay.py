from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.agents.output import OutputFiles
from descartesd.agents.replay import TAIL_BYTES, Start, last_screen, lines_start, screen_start

KEPT = 10 << 20


@pytest.mark.parametrize(
    ("before", "screen"),
    [
        (b"old\r\n", b"\x1b[H\x1b[2Jnew"),
        (b"old\r\n", b"\x1b[2Jnew"),
        (b"old\r\n", b"\x1b[1;1H\x1b[Jnew"),
        (b"old\r\n", b"\x1bcnew"),
        (b"$ less\r\n", b"\x1b[?1049h\x1b[22;0;0t\x1b[?1hpage"),
        (b"\x1b[?1049hpage", b"\x1b[?1049l$ "),
        (b"\x1b[H\x1b[2Jone\x1b[5;5Htwo", b"\x1b[H\x1b[2Jthree\x1b[K\x1b[J"),
        (b"", b"just \x1b[31mlines\r\n\x1b[K$ "),
    ],
)
def test_screen_begins_where_it_was_last_made_fresh(before: bytes, screen: bytes) -> None:
    assert last_screen(before + screen) == len(before)


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles(str(tmp_path))


def written(files: OutputFiles, data: bytes) -> None:
    Path(files.path("a", "stdout")).write_bytes(data)


def test_modes_set_long_before_the_screen_come_with_it(files: OutputFiles) -> None:
    before = b"\x1b[?1049h\x1b[?1h" + b"x" * 300_000 + b"\x1b[?25l" + b"y" * 1000
    written(files, before + b"\x1b[H\x1b[2Jhere\x1b[?25h")

    start = screen_start(files, "a", KEPT)

    assert start == Start(len(before), b"\x1b[?1049h\x1b[?1h\x1b[?25l")


def test_screen_that_was_never_made_fresh_is_cut_at_a_line_or_a_sequence(
    files: OutputFiles,
) -> None:
    line = b"\x1b[1;31mgr\xc3\xbcn\x1b[m\r\n"
    data = line * (5 * TAIL_BYTES // len(line))
    written(files, data)

    start = screen_start(files, "a", KEPT)

    assert len(data) - TAIL_BYTES <= start.offset < len(data) - TAIL_BYTES + len(line)
    assert data[start.offset : start.offset + 1] in (b"\n", b"\x1b")


def test_agent_that_has_written_nothing_begins_at_its_begin(files: OutputFiles) -> None:
    assert screen_start(files, "a", KEPT) == Start(0)
    assert lines_start(files, "a", "stdout", KEPT) == Start(0)


def test_lines_begin_with_the_last_of_them_and_not_far_back(files: OutputFiles) -> None:
    written(files, b"".join(b"%d\n" % n for n in range(100)))
    assert lines_start(files, "a", "stdout", KEPT) == Start(290 - 24 * 3)

    written(files, b"x" * 1_000_000)
    assert lines_start(files, "a", "stdout", KEPT) == Start(1_000_000 - TAIL_BYTES)
