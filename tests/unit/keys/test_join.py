"""Join strings have one form, taken apart from the right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.errors import InvalidArgumentError
from descartesd.keys.join import JoinString, parse_join

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS, KEYS, st.sampled_from(["tcp://10.0.0.7:5555", "tcp://[fe80::1]:7", "tcp://a.b-c:1"]))
def test_a_join_string_is_read_back(server_key: bytes, token: bytes, endpoint: str) -> None:
    join = JoinString(endpoint, server_key, token)

    assert parse_join(f"{join.text()}\n") == join
    assert all(len(part) == 43 for part in join.text().rsplit(":", 2)[1:])


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    text = JoinString("tcp://[::1]:5555", bytes(32), bytes(32)).text()

    assert text == f"descartes1:[::1]:5555:{'A' * 43}:{'A' * 43}"


def test_its_repr_does_not_show_the_token() -> None:
    join = JoinString("tcp://h:1", bytes(32), b"secret" * 5 + b"xx")

    assert repr(join) == "JoinString(tcp://h:1)"


GOOD = "A" * 43


@pytest.mark.parametrize(
    "text",
    [
        "",
        "descartes1",
        f"descartes2:h:1:{GOOD}:{GOOD}",
        f"descartes1:h:{GOOD}:{GOOD}",
        f"descartes1:h:0:{GOOD}:{GOOD}",
        f"descartes1:h:x:{GOOD}:{GOOD}",
        f"descartes1:::1:1:{GOOD}:{GOOD}",
        f"descartes1:h:1:{GOOD}:{GOOD[1:]}",
        f"descartes1:h:1:{GOOD}:{GOOD}A",
        f"descartes1:h:1:{GOOD}:{GOOD[:-1]}B",
        f"descartes1:h:1:{GOOD}:{GOOD[:-1]}=",
        f"descartes1:h:1:{'é' * 43}:{GOOD}",
        f"descartes1:h:1:{GOOD[:-1]}+:{GOOD}",
    ],
)
def test_anything_else_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no join string") as caught:
        parse_join(text)

    assert GOOD not in caught.value.message


@given(st.text())
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_join(f"descartes1:{text}")
