from __future__ import annotations

import pytest

from descartesd.ctl.keys import Keys


@pytest.mark.parametrize(
    ("typed", "passed", "has_left"),
    [
        (b"hello\x03\x1b[A", b"hello\x03\x1b[A", False),
        (b"bye\x1dd", b"bye", True),
        (b"bye\x1ddmore", b"bye", True),
        (b"a\x1d\x1db", b"a\x1db", False),
        (b"\x1d\x1dd", b"\x1dd", False),
        (b"\x1dx", b"\x1dx", False),
        (b"d\x1d", b"d", False),
    ],
)
def test_only_ctrl_bracket_d_leaves(typed: bytes, passed: bytes, has_left: bool) -> None:
    for pieces in ([typed], [typed[at : at + 1] for at in range(len(typed))]):
        keys = Keys()

        assert b"".join(keys.feed(piece) for piece in pieces if not keys.has_left) == passed
        assert keys.has_left == has_left
