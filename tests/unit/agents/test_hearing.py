"""Lines out of a stream that comes in pieces, however it is cut and whatever is in it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.hearing import LINE_MAX, Splitter


def fed(splitter: Splitter, pieces: Iterable[bytes]) -> list[bytes]:
    return [line for piece in pieces for line in splitter.feed(piece)]


@given(st.lists(st.binary(max_size=20) | st.just(b"\n")))
def test_lines_are_the_same_however_the_stream_is_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    splitter = Splitter()

    lines = fed(splitter, pieces)
    rest = splitter.rest()

    assert lines == whole.split(b"\n")[:-1]
    assert rest == whole.rpartition(b"\n")[2]
    assert splitter.offset == splitter.position == len(whole)


@given(st.lists(st.binary(max_size=20) | st.just(b"\n"), min_size=1), st.data())
def test_another_splitter_goes_on_where_one_stopped(
    pieces: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(pieces)
    stop = data.draw(st.integers(0, len(pieces)))
    first = Splitter(limit=8)
    lines = fed(first, pieces[:stop])

    second = Splitter(first.offset, is_skipping=first.is_skipping, limit=8)
    lines += fed(second, [whole[first.offset :]])

    assert lines == fed(Splitter(limit=8), [whole])


def test_line_over_the_limit_is_passed_over_and_counted() -> None:
    splitter = Splitter(limit=10)

    lines = fed(splitter, [b"a\n" + b"x" * 8, b"x" * 8, b"xx\nb\n", b"y" * 10 + b"\n", b"z" * 11])

    assert lines == [b"a", b"b", b"y" * 10]
    assert splitter.too_long == 2
    assert (splitter.is_skipping, splitter.offset) == (True, splitter.position)


def test_offset_is_where_the_line_not_taken_begins() -> None:
    splitter = Splitter(100)

    lines = splitter.feed(b"one\ntwo\nthr")

    assert (next(lines), splitter.offset) == (b"one", 104)
    assert (next(lines), splitter.offset) == (b"two", 108)
    assert next(lines, None) is None
    assert (splitter.offset, splitter.position) == (108, 111)


def test_behind_a_gap_lines_begin_after_the_next_newline() -> None:
    splitter = Splitter()
    fed(splitter, [b"one\nhalf of tw"])

    splitter.jump(1000)
    lines = fed(splitter, [b"o lost\nthree\n"])

    assert (lines, splitter.offset) == ([b"three"], 1013)


def test_endless_line_is_held_up_to_the_limit_only() -> None:
    splitter = Splitter()
    piece = b"x" * 65_536
    tracemalloc.start()

    for _ in range(4 * LINE_MAX // len(piece)):
        assert fed(splitter, [piece]) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3 * LINE_MAX
    assert splitter.too_long == 1
