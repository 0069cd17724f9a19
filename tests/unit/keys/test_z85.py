"""Keys as text are ZeroMQ's Z85."""

from __future__ import annotations

import pytest
import zmq.utils.z85
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.keys.z85 import decode_key, encode_key


@settings(database=None)
@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_written_as_zeromq_writes_it_and_read_back(key: bytes) -> None:
    text = encode_key(key)

    assert text == zmq.utils.z85.encode(key).decode()
    assert decode_key(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 39,
        "a" * 41,
        "a" * 39 + "\n",
        "a" * 39 + '"',
        "ä" * 40,
        "#" * 40,
        "0" * 35 + "%nSc1",
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        decode_key(text)

    assert len(text) < 5 or text not in str(caught.value)


def test_the_largest_group_is_read() -> None:
    assert decode_key("%nSc0" * 8) == b"\xff" * 32


def test_only_32_bytes_are_a_key() -> None:
    with pytest.raises(ValueError, match="expected 32 bytes, got 31"):
        encode_key(bytes(31))
