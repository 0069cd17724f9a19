"""The title of a terminal, out of anything a program may write to it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.titles import last_title


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (b"plain", None),
        (b"\x1b]0;one\x07", "one"),
        (b"\x1b]2;one\x1b\\", "one"),
        (b"\x1b]0;one\x07text\x1b]2;two\x07more", "two"),
        (b"\x1b]1;icon\x07\x1b]10;?\x07\x1b]52;c;aGk=\x07", None),
        ("\x1b]0;✳ claude\x07".encode(), "✳ claude"),
        (b"\x1b]0;whole\x07\x1b]0;half", "whole"),
        (b"tail of one\x07\x1b]0;next\x07", "next"),
        (b"\x1b]0;a\nb\tc\x9bd\x07", "abc\ufffdd"),
        ("\x1b]0;a\u202eb\u2028c\u009bd\x07".encode(), "abcd"),
        (b"\x1b]0;" + b"x" * 1000 + b"\x07", "x" * 256),
        (b"\x1b]0;\xff\xfe\x07", "\ufffd\ufffd"),
        (b"\x1b]0;\x07", ""),
        (b"\x1b]0;one\x1b[31m\x07", None),
    ],
)
def test_title_is_the_last_that_was_set(data: bytes, title: str | None) -> None:
    assert last_title(data) == title


@given(st.lists(st.sampled_from([b"\x1b", b"]0;", b"]2;", b"\x07", b"\\", b"x", b"\xe2"])))
def test_title_of_hostile_bytes_is_short_and_printable(pieces: list[bytes]) -> None:
    title = last_title(b"".join(pieces))

    assert title is None or (title.isprintable() and len(title) <= 256)


@pytest.mark.parametrize("piece", [b"\x1b]0;", b"\x1b]0;x", b"\x1b", b"]0;"])
def test_search_takes_no_longer_for_hostile_bytes(piece: bytes) -> None:
    began = time.perf_counter()

    assert last_title(piece * 100_000) is None

    assert time.perf_counter() - began < 0.1
