"""Whole lines page by page, all of them or those an expression is found in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.lines import (
    FOUND_MAX,
    SEARCHED_MAX,
    Page,
    Wanted,
    read_lines,
    search_for,
    split,
)
from descartesd.agents.output import Piece
from descartesd.errors import InvalidArgumentError


def reading(data: bytes, head: int = 0) -> Callable[[int, int], Piece]:
    """A stream that holds `data`, of which what lies before `head` is dropped."""

    def read(offset: int, size: int) -> Piece:
        offset = max(offset, head)
        return Piece(data[offset : offset + size], offset, len(data), head, None)

    return read


def all_pages(data: bytes, wanted: Wanted, *, complete: bool = True) -> list[Page]:
    pages: list[Page] = []
    offset = 0
    while True:
        page, _ = read_lines(reading(data), offset, wanted, complete=complete)
        if page.next_offset == offset:
            return pages
        assert page.offset == offset
        pages.append(page)
        offset = page.next_offset


def cut(data: bytes, limit: int) -> list[bytes]:
    """The lines of `data`, each cut every `limit` bytes."""
    lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", data)
    return [line[at : at + limit] for line in lines for at in range(0, len(line), limit)]


texts = st.lists(st.sampled_from([b"\n", b"a", b"b", b"\xff", b"needle", b"xy\n", "ü".encode()]))
limits = st.integers(1, 40)


@given(parts=texts, limit=limits, count=st.integers(1, 5))
def test_paging_tells_every_line_once_at_any_limit(
    parts: list[bytes], limit: int, count: int
) -> None:
    data = b"".join(parts)

    pages = all_pages(data, Wanted(limit, count))

    assert b"".join(bytes(page.data) for page in pages) == data
    assert all(len(page.data) <= limit and len(page.starts) <= count for page in pages)
    told = [data[offset:] for page in pages for _, offset in page.starts]
    assert len(told) == len(cut(data, limit))


@given(parts=texts, limit=limits, count=st.integers(1, 5))
def test_paging_tells_every_line_that_is_found_once_at_any_limit(
    parts: list[bytes], limit: int, count: int
) -> None:
    data = b"".join(parts)

    pages = all_pages(data, Wanted(limit, count, lambda line: b"a" in line))

    told = []
    for page in pages:
        ends = [*(at for at, _ in page.starts[1:]), len(page.data)]
        for (at, offset), end in zip(page.starts, ends, strict=False):
            told.append(bytes(page.data[at:end]))
            assert data[offset : offset + end - at] == told[-1]
    assert told == [line for line in cut(data, limit) if b"a" in line]


@given(parts=texts, limit=limits)
def test_line_waits_for_its_newline_until_the_stream_has_ended(
    parts: list[bytes], limit: int
) -> None:
    data = b"".join(parts)
    lines = cut(data, limit)
    is_partial = bool(lines) and not lines[-1].endswith(b"\n") and len(lines[-1]) < limit

    pages = all_pages(data, Wanted(limit), complete=False)

    told = b"".join(bytes(page.data) for page in pages)
    assert told == b"".join(lines[:-1] if is_partial else lines)


def test_line_of_exactly_the_limit_is_whole() -> None:
    assert list(split(b"abc\nde", 4, is_last=False)) == [(0, 4)]
    assert list(split(b"abcd\n", 4, is_last=False)) == [(0, 4), (4, 5)]
    assert list(split(b"abcd", 4, is_last=False)) == [(0, 4)]


def test_page_ends_after_eight_megabytes_that_hold_nothing() -> None:
    data = (b"x" * 63 + b"\n") * 200_000

    page, piece = read_lines(
        reading(data), 0, Wanted(65_536, is_found=lambda _: False), complete=True
    )

    assert piece.total == len(data)
    assert page.data == b""
    assert SEARCHED_MAX - 2 * 65_536 <= page.next_offset <= SEARCHED_MAX
    assert page.next_offset % 64 == 0


def test_page_ends_after_a_second_of_slow_searching() -> None:
    def is_found(_: bytes) -> bool:
        time.sleep(0.3)  # what is tested is that this adds up
        return False

    page, _ = read_lines(reading(b"line\n" * 100), 0, Wanted(100, is_found=is_found), complete=True)

    assert 5 <= page.next_offset <= 25


def test_page_of_found_lines_is_bounded_by_their_number() -> None:
    page, _ = read_lines(
        reading(b"\n" * 50_000), 0, Wanted(1 << 20, is_found=lambda _: True), complete=True
    )

    assert len(page.starts) == page.next_offset == FOUND_MAX


def test_page_ends_where_old_output_was_dropped_meanwhile() -> None:
    data = b"0123456\n" * 100_000
    reads: list[int] = []

    def read(offset: int, size: int) -> Piece:
        head = 400_000 if reads else 8
        reads.append(offset)
        return reading(data, head)(offset, size)

    page, piece = read_lines(read, 0, Wanted(1000, is_found=lambda _: False), complete=True)

    assert (page.offset, page.next_offset) == (8, 8 + 65_536)
    assert piece.truncated_before == 400_000


@pytest.mark.parametrize(
    ("regex", "line", "is_found"),
    [
        ("^b$", b"b\n", True),
        ("^b$", b"ab\n", False),
        ("^b$", b"b\r\n", False),
        ("b\\s", b"b\n", False),
        ("^$", b"\n", True),
        ("foo.bar", b"foo\xffbar\n", True),
        ("foo\ufffdbar", b"foo\xffbar", True),
        ("ü", b"\xff \xc3\xbc\n", True),
        ("^gr[äöü]n$", "grün\n".encode(), True),
        ("^gr[äöü]n$", "grén\n".encode(), False),
        ("(?i)GRÜN", "grün\n".encode(), True),
        ("^.$", "€".encode(), True),
        ("\x00", b"a\x00b", True),
        ("(a+)+$", b"a" * 10_000 + b"!", False),
    ],
)
def test_expression_is_found_in_text_and_in_what_is_none(
    regex: str, line: bytes, is_found: bool
) -> None:
    assert search_for(regex)(line) is is_found


@pytest.mark.parametrize(
    ("regex", "words"),
    [
        ("a(b", r"regex: missing \): a\(b"),
        ("(a)\\1", r"regex: invalid escape sequence: \\1"),
        ("(?=a)", r"regex: invalid perl operator: \(\?="),
        ("\\pL{1000}", "regex: pattern too large - compile failed"),
    ],
)
def test_expression_re2_does_not_take_is_refused_in_its_words(regex: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{words}$"):
        search_for(regex)
