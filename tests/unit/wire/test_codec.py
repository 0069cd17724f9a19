"""The codec: what goes out comes back; what is malformed is refused in one sentence."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.errors import ERRORS, DescartesError, InvalidArgumentError, UnimplementedError
from descartesd.wire import codec
from descartesd.wire.agent import AgentOutput, AgentRef, AgentSpawn, AgentSpec, AgentWrite
from descartesd.wire.envelope import CURVE_OVERHEAD, Request, Result, raw
from descartesd.wire.methods import METHODS

ids = st.one_of(st.text(min_size=1, max_size=64), st.integers(0, 2**63 - 1))
names = st.from_regex(r"[a-z][a-z0-9._-]{0,30}", fullmatch=True)
arguments = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def packed(**changes: Any) -> bytes:
    message = {"v": 1, "id": 1, "method": "agent.get", "params": {"id": "abcd"}} | changes
    return msgpack.packb(message)


@given(
    request_id=ids,
    name=names,
    command=st.lists(arguments, min_size=1, max_size=5),
    env=st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), arguments, max_size=4),
)
def test_spawn_request_survives_the_wire(
    request_id: str | int, name: str, command: list[str], env: dict[str, str]
) -> None:
    spawn = AgentSpawn(spec=AgentSpec(name=name, command=command, env=env))
    sent = Request(v=1, id=request_id, method="agent.spawn", params=raw(spawn))

    received = codec.decode_request(codec.encode(sent))

    assert received.id == request_id
    assert codec.ParamsDecoder(AgentSpawn)(received.params) == spawn


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_bytes_are_decoded_or_refused_as_invalid(payload: bytes) -> None:
    codec.read_id(payload)
    try:
        request = codec.decode_request(payload)
    except (InvalidArgumentError, UnimplementedError):
        return
    assert request.v == 1


@given(st.sampled_from(sorted(METHODS)), st.binary(max_size=200))
@settings(max_examples=300)
def test_any_params_are_decoded_or_refused_as_invalid(method: str, params: bytes) -> None:
    decoder = codec.ParamsDecoder(METHODS[method].request)
    try:
        decoded = decoder(msgspec.Raw(params))
    except InvalidArgumentError:
        return
    assert isinstance(decoded, METHODS[method].request)


HOSTILE = {
    "nested": b"\x91" * 2000 + b"\x01",
    "nested in params": msgpack.packb({"v": 1, "id": 1, "method": "agent.get"})[:-9]
    + b"\xa6method\xa1x",
    "array header of 4G": b"\xdd\xff\xff\xff\xff",
    "map header of 4G": b"\xdf\xff\xff\xff\xff",
    "string header of 4G": b"\xdb\xff\xff\xff\xff",
    "ext": msgpack.packb(msgpack.ExtType(5, b"x")),
    "trailing bytes": packed() + b"\x01",
    "number as key": msgpack.packb({1: 2}),
    "duplicate key": b"\x84\xa1v\x01\xa2id\x01\xa6method\xa1x\xa6method\xa1y",
    "nan": packed(deadline_s=float("nan")),
    "invalid utf-8": packed().replace(b"agent.get", b"agent\xffget"),
    "not a map": msgpack.packb([1, 2, 3]),
    "nothing": b"",
    "null": b"\xc0",
    "id of 65 bytes": packed(id="x" * 65),
    "negative id": packed(id=-1),
    "boolean id": packed(id=True),
    "empty idem": packed(idem=""),
    "deadline zero": packed(deadline_s=0),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_envelope_is_refused_quickly(payload: bytes) -> None:
    began = time.perf_counter()

    with pytest.raises(InvalidArgumentError):
        codec.decode_request(payload)

    assert time.perf_counter() - began < 0.02


def test_ext_in_params_is_refused() -> None:
    request = codec.decode_request(packed(params={"id": msgpack.ExtType(1, b"")}))

    with pytest.raises(InvalidArgumentError):
        codec.ParamsDecoder(AgentRef)(request.params)


def test_nesting_in_params_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        codec.ParamsDecoder(AgentSpawn)(msgspec.Raw(b"\x81\xa4spec" + b"\x91" * 5000 + b"\x01"))


def test_duplicate_param_is_refused() -> None:
    twice = b"\x83\xa2id\xa4abcd\xa2id\xa4abce\xa4data\xc4\x01x"

    with pytest.raises(InvalidArgumentError, match="1 of 3 keys stand twice"):
        codec.ParamsDecoder(AgentWrite)(msgspec.Raw(twice))


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"id": "abcd", "idd": 1}, "unknown key 'idd': did you mean 'id'"),
        ({}, "the message is malformed: object missing required field `id`"),
        ({"id": 7}, "id: expected `str`, got `int`"),
    ],
)
def test_refusal_names_the_field(params: dict[str, Any], sentence: str) -> None:
    request = codec.decode_request(packed(params=params))

    with pytest.raises(InvalidArgumentError) as caught:
        codec.ParamsDecoder(AgentRef)(request.params)

    assert caught.value.message == sentence


@pytest.mark.parametrize("name", ["two words", "Upper", "a\n", "1st"])
def test_refused_name_is_told_the_rule_in_words(name: str) -> None:
    spec = {"command": ["true"], "name": name}
    request = codec.decode_request(packed(params={"spec": spec}))

    with pytest.raises(InvalidArgumentError) as caught:
        codec.ParamsDecoder(AgentSpawn)(request.params)

    assert caught.value.message == (
        "spec.name: expected a lower-case letter and up to 62 lower-case letters, digits,"
        " '.', '_' or '-'"
    )


def test_unknown_key_inside_names_place_and_nearest() -> None:
    request = codec.decode_request(packed(params={"spec": {"comand": ["x"], "command": ["a"]}}))

    with pytest.raises(InvalidArgumentError) as caught:
        codec.ParamsDecoder(AgentSpawn)(request.params)

    assert caught.value.message == "unknown key 'comand' in spec: did you mean 'command'"


def test_unknown_envelope_key_is_ignored() -> None:
    assert codec.decode_request(packed(later="x")).id == 1


@pytest.mark.parametrize("count", [15, 16, 70_000])
def test_duplicate_key_is_found_in_a_map_of_any_size(count: int) -> None:
    pairs = [(f"k{number}", 0) for number in range(count - 5)]
    pairs += [("v", 1), ("id", 1), ("method", "x"), ("params", {}), ("id", 2)]
    packer = msgpack.Packer()
    payload = packer.pack_map_pairs(pairs)

    with pytest.raises(InvalidArgumentError, match=f"1 of {count} keys stand twice"):
        codec.decode_request(payload)


def test_what_expands_when_decoded_is_refused_or_ignored_undecoded() -> None:
    swollen = [[]] * 250_000
    began = time.perf_counter()

    assert codec.decode_request(packed(later=swollen)).id == 1
    assert codec.read_id(packed(method=7, later=swollen)) == 1
    assert codec.read_id(packed(id=swollen)) is None

    assert time.perf_counter() - began < 0.2


def test_other_version_is_unimplemented() -> None:
    with pytest.raises(UnimplementedError, match="version 2"):
        codec.decode_request(packed(v=2))


@pytest.mark.parametrize("found", [1, "a", "x" * 64])
def test_id_is_found_in_a_refused_envelope(found: str | int) -> None:
    assert codec.read_id(packed(id=found, method=7)) == found


def test_id_that_cannot_be_echoed_is_none() -> None:
    assert codec.read_id(packed(id="x" * 65)) is None
    assert codec.read_id(b"\x91\x01") is None


@pytest.mark.parametrize("cls", ERRORS.values(), ids=ERRORS.keys())
def test_error_survives_the_wire(cls: type[DescartesError]) -> None:
    error = cls("what happened", hint="what to do", details={"state": "running"})

    incoming = codec.decode_incoming(codec.failure(7, error))

    assert incoming.id == 7
    assert not isinstance(incoming.error, msgspec.UnsetType)
    rebuilt = codec.error_of(incoming.error)
    assert type(rebuilt) is cls
    assert (rebuilt.message, rebuilt.hint, rebuilt.details, rebuilt.retryable) == (
        error.message,
        error.hint,
        error.details,
        cls.default_retryable,
    )


def test_result_is_plain_msgpack() -> None:
    reply = codec.encode(Result(v=1, id=3, result=AgentRef(id="abcd")))

    assert msgpack.unpackb(reply) == {"v": 1, "id": 3, "result": {"id": "abcd"}}


def test_curve_overhead_is_what_the_protocol_says() -> None:
    # RFC 26: a MESSAGE command is 8 bytes of name, 8 of nonce, 16 of box, 1 of flags.
    assert CURVE_OVERHEAD == 8 + 8 + 16 + 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"env": {"Ü": "x"}},
            "a key of spec.env: expected letters, digits and '_', not beginning with a digit",
        ),
        (
            {"labels": {"team": "x y"}},
            "a value of spec.labels: expected up to 255 letters, digits and any of . _ / : @ + -",
        ),
        (
            {"labels": {f"k{n}": "" for n in range(65)}},
            "spec.labels: expected at most 64 entries",
        ),
        ({"cwd": "x" * 5000}, "spec.cwd: expected at most 4095 characters"),
        ({"limits": {"open_files": 1}}, "spec.limits.open_files: expected at least 16"),
        ({"stop": {"grace_s": 1e9}}, "spec.stop.grace_s: expected at most 31536000.0"),
    ],
)
def test_refused_spec_is_told_the_rule_in_words(changes: dict[str, Any], sentence: str) -> None:
    request = codec.decode_request(packed(params={"spec": {"command": ["true"], **changes}}))

    with pytest.raises(InvalidArgumentError) as caught:
        codec.ParamsDecoder(AgentSpawn)(request.params)

    assert caught.value.message == sentence


def test_empty_text_is_refused_in_words() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^idem: expected at least 1 character$"):
        codec.decode_request(packed(idem=""))

    request = codec.decode_request(packed(params={"id": "a", "regex": ""}))
    with pytest.raises(InvalidArgumentError, match=r"^regex: expected at least 1 character$"):
        codec.ParamsDecoder(AgentOutput)(request.params)
