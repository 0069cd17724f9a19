from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from descartesd.ctl.chunks import pieces, whole_characters, with_times
from descartesd.wire.agent import Mark, OutputChunk, StreamName


def chunk(
    data: bytes,
    offset: int = 0,
    *,
    stream: StreamName = "stdout",
    eof: bool = False,
    time: float | None = None,
    marks: tuple[Mark, ...] = (),
) -> OutputChunk:
    after = offset + len(data)
    return OutputChunk(
        stream=stream, data=data, offset=offset, next_offset=after, total=after,
        truncated_before=0, eof=eof, time=time, marks=list(marks),
    )  # fmt: skip


def told(chunks: list[OutputChunk]) -> list[tuple[str, bytes, int]]:
    return [(each.stream, each.data, each.offset) for each in chunks]


def test_character_that_was_cut_comes_whole_with_the_next_chunk() -> None:
    euro = "€".encode()
    first = chunk(b"a" + euro[:1])
    other = chunk(b"err" + euro[:2], stream="stderr")
    last = chunk(euro[1:] + b"b", 2)

    got = list(whole_characters([first, other, last]))

    assert told(got) == [
        ("stdout", b"a", 0), ("stderr", b"err", 0), ("stdout", euro + b"b", 1),
        ("stderr", euro[:2], 3),
    ]  # fmt: skip
    assert [each.next_offset for each in got] == [1, 3, 5, 5]


def test_character_that_stays_cut_is_told_where_it_stands() -> None:
    gap = [chunk(b"\xe2\x82"), chunk(b"\xacx", 9)]
    ended = [chunk(b"a\xe2", eof=True)]

    assert told(list(whole_characters(gap))) == [
        ("stdout", b"\xe2\x82", 0),
        ("stdout", b"\xacx", 9),
    ]
    assert told(list(whole_characters(ended))) == [("stdout", b"a\xe2", 0)]


@given(text=st.text(), cuts=st.lists(st.integers(0, 30)))
def test_text_is_told_as_text_however_it_was_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [chunk(data[a:b], a) for a, b in pairwise(places)]

    got = list(whole_characters(parts))

    assert "".join(each.data.decode() for each in got) == text
    assert all(data[each.offset : each.next_offset] == each.data for each in got)


def test_marks_split_a_chunk_into_what_they_stand_for() -> None:
    marks = (Mark(at=0, offset=10, time=1.0), Mark(at=4, offset=90, time=2.0))

    got = list(pieces([chunk(b"one\nnine\n", 5, eof=True, marks=marks), chunk(b"plain")]))

    assert told(got) == [
        ("stdout", b"one\n", 10),
        ("stdout", b"nine\n", 90),
        ("stdout", b"plain", 0),
    ]
    assert [each.time for each in got] == [1.0, 2.0, None]
    assert [each.eof for each in got] == [False, True, False]


def test_each_line_begins_with_its_time_and_keeps_to_its_stream() -> None:
    parts = [
        chunk(b"one\ntw", time=1.5),
        chunk(b"bad\n", stream="stderr", time=1700000000.0004),
        chunk(b"o\n\n", 6, time=99.0),
        chunk(b"", 9),
        chunk(b"end", 9),
    ]

    printed: dict[StreamName, bytes] = {"stdout": b"", "stderr": b""}
    for each in with_times(parts):
        printed[each.stream] += each.data

    assert printed["stdout"].decode().splitlines() == [
        "1970-01-01T00:00:01.500Z one",
        "1970-01-01T00:00:01.500Z two",
        "1970-01-01T00:01:39.000Z ",
        "- end",
    ]
    assert printed["stderr"] == b"2023-11-14T22:13:20.000Z bad\n"
