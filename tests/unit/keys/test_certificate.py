"""A certificate is believed exactly as it was signed, and only then."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from nacl.signing import SigningKey

from descartesd.errors import UnauthenticatedError
from descartesd.keys.certificate import (
    CONTEXT,
    Certificate,
    armour,
    authority_id,
    sign,
    unarmour,
    utc,
    verify,
    verify_signature,
)
from descartesd.keys.keyfile import fingerprint

SEED = bytes(range(32))
PUBLIC = SigningKey(SEED).verify_key.encode()
AUTHORITIES = {authority_id(PUBLIC): PUBLIC}
START, END = 1_800_000_000, 1_831_536_000

CERTIFICATE = Certificate(
    kind="client",
    serial=b"\x01" * 8,
    name="alice",
    key=b"\x02" * 32,
    roles=("operator",),
    not_before=START,
    not_after=END,
    renew_until=END,
    authority=authority_id(PUBLIC),
)


def reason(check: Callable[[], object]) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        check()
    assert caught.value.details is not None
    assert caught.value.message[0].islower()
    return str(caught.value.details["reason"])


def reason_of(signed: bytes, **changed: Any) -> str:
    wanted = {"kind": "client", "now": START, **changed}
    return reason(lambda: verify(signed, AUTHORITIES, **wanted))


def test_a_certificate_is_read_back_as_it_was_signed() -> None:
    signed = sign(CERTIFICATE, SEED)

    assert verify(signed, AUTHORITIES, kind="client", now=START) == CERTIFICATE
    assert verify(signed, AUTHORITIES, kind="client", now=END - 0.001) == CERTIFICATE


def test_any_msgpack_and_ed25519_library_can_check_one() -> None:
    body, signature = msgpack.unpackb(sign(CERTIFICATE, SEED))

    SigningKey(SEED).verify_key.verify(CONTEXT + body, signature)
    assert msgpack.unpackb(body) == {
        "v": 1, "kind": "client", "serial": b"\x01" * 8, "name": "alice", "key": b"\x02" * 32,
        "roles": ["operator"], "not_before": START, "not_after": END, "renew_until": END,
        "authority": authority_id(PUBLIC), "constraints": {},
    }  # fmt: skip


def test_fault_36_each_refusal_has_its_own_reason() -> None:
    signed = sign(CERTIFICATE, SEED)
    other = SigningKey(os.urandom(32)).verify_key.encode()

    assert reason_of(signed, now=START - 1) == "not_yet_valid"
    assert reason_of(signed, now=END) == "expired"
    assert reason_of(signed, kind="server") == "wrong_kind"
    assert reason_of(signed[:-1] + bytes([signed[-1] ^ 1])) == "altered"
    assert reason_of(sign(CERTIFICATE, os.urandom(32))) == "altered"
    assert reason_of(signed[:-1]) == "malformed"
    assert reason_of(sign(replace(CERTIFICATE, constraints={"cidr": ["::/0"]}), SEED)) == (
        "unknown_constraint"
    )
    assert reason(
        lambda: verify(signed, {authority_id(other): other}, kind="client", now=START)
    ) == ("wrong_authority")
    assert reason(lambda: verify(signed, {}, kind="client", now=START)) == "wrong_authority"


def test_fault_36_no_single_bit_can_be_changed() -> None:
    signed = sign(CERTIFICATE, SEED)

    accepted = []
    for bit in range(len(signed) * 8):
        flipped = bytearray(signed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            verify_signature(bytes(flipped), AUTHORITIES, kind="client")
        except UnauthenticatedError:
            continue
        accepted.append(bit)

    assert accepted == []


def test_fault_36_no_single_bit_of_the_text_can_be_changed_the_header_included() -> None:
    text = armour(sign(CERTIFICATE, SEED)).encode()

    accepted = []
    for bit in range(len(text) * 8):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            signed = unarmour(flipped.decode("ascii", "replace"))
            verify_signature(signed, AUTHORITIES, kind="client")
        except UnauthenticatedError:
            continue
        accepted.append(bit)

    assert accepted == []


@settings(database=None)
@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_being_malformed(data: bytes) -> None:
    assert reason_of(data) in {"malformed", "wrong_authority"}


@settings(database=None)
@given(st.text(max_size=300))
def test_no_text_does_worse_than_being_malformed(text: str) -> None:
    assert reason(lambda: unarmour(text)) == "malformed"


def test_a_signature_over_something_else_is_not_one_over_a_certificate() -> None:
    body, _ = msgpack.unpackb(sign(CERTIFICATE, SEED))
    bare = SigningKey(SEED).sign(body).signature

    assert reason_of(msgpack.packb([body, bare])) == "altered"


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"kind": "root"}, {"serial": b""}, {"name": "Alice"}, {"name": "../x"},
        {"name": "alice\n"}, {"key": b"\x02" * 31}, {"roles": ["a b"]}, {"roles": "admin"},
        {"not_before": -1}, {"not_after": 1 << 60}, {"not_after": 1.5}, {"extra": 1},
        {"constraints": []}, {"authority": b"x"},
    ],
)  # fmt: skip
def test_a_signed_statement_that_cannot_be_is_malformed(change: dict[str, Any]) -> None:
    body = msgpack.unpackb(msgpack.unpackb(sign(CERTIFICATE, SEED))[0]) | change
    packed = msgpack.packb(body)
    signature = SigningKey(SEED).sign(CONTEXT + packed).signature

    assert reason_of(msgpack.packb([packed, signature])) == "malformed"


def test_a_certificate_has_one_encoding() -> None:
    body, signature = msgpack.unpackb(sign(CERTIFICATE, SEED))

    for other in (
        msgpack.packb([body, signature]) + b"\xc0",
        msgpack.packb([body, signature, b""]),
        msgpack.packb([body]),
        msgpack.packb([body, signature + b"\0"]),
        msgpack.packb([body, b""]),
        b"\xdc\x00\x02" + msgpack.packb([body, signature])[1:],
        b"\x92" + msgpack.packb(body) + b"\xc5\x00\x40" + signature,
        msgpack.packb({"body": body, "signature": signature}),
    ):
        assert reason_of(other) == "malformed"


def test_a_deep_nest_is_malformed() -> None:
    for nest in (b"\x91" * 200_000, b"\x81\xabconstraints\x81\xa1a" + b"\x91" * 200_000):
        assert reason_of(nest) == "malformed"
        assert reason_of(msgpack.packb([nest, bytes(64)])) == "malformed"


def test_the_text_begins_with_what_a_reader_searches_for() -> None:
    text = armour(sign(replace(CERTIFICATE, roles=("observer", "auditor")), SEED))

    assert text.splitlines()[0] == (
        f"# name=alice roles=observer,auditor not_after={utc(END)} {fingerprint(CERTIFICATE.key)}"
    )
    assert text.isascii()
    assert max(len(line) for line in text.splitlines()[1:]) == 64
    assert text.endswith("\n")


def test_the_text_gives_the_bytes_back() -> None:
    signed = sign(CERTIFICATE, SEED)

    assert unarmour(armour(signed)) == signed


def test_a_header_that_says_more_than_was_signed_is_refused() -> None:
    text = armour(sign(CERTIFICATE, SEED)).replace("roles=operator", "roles=admin")

    assert reason(lambda: unarmour(text)) == "malformed"


def test_times_are_shown_in_utc() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert utc(253_402_300_799) == "9999-12-31T23:59:59Z"
