"""Bytes to typed messages and back; what comes from a peer is untrusted until it has been here."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import msgspec

from descartesd.errors import (
    DescartesError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnimplementedError,
    from_wire,
)
from descartesd.wire.agent import PATTERN_WORDS
from descartesd.wire.envelope import (
    EMPTY_PARAMS,
    VERSION,
    Failure,
    Incoming,
    Request,
    RequestId,
    Result,
    WireError,
)

S = TypeVar("S", bound=msgspec.Struct)

_request_decoder = msgspec.msgpack.Decoder(Request)
_incoming_decoder = msgspec.msgpack.Decoder(Incoming)
_UNKNOWN_FIELD = re.compile(
    r"unknown field `(?P<field>.*?)`(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL
)
_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_AT_KEY = re.compile(r"^(?P<what>.*) - at `key` in `(?P<path>[^`]*)`$", re.DOTALL)
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>'.*'|\".*\")")
_LENGTH = re.compile(r"Expected `(?P<kind>\w+)` of length (?P<than>[<>]=) (?P<count>\d+)")
_BOUND = re.compile(r"Expected `(?:int|float)` (?P<than>[<>]=?) (?P<bound>\S+)")
_COUNTED = {
    "str": ("character", "characters"),
    "bytes": ("byte", "bytes"),
    "array": ("entry", "entries"),
    "object": ("entry", "entries"),
}
_THAN = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
# What any decoder may raise on hostile bytes; RecursionError on nesting.
MALFORMED = (msgspec.DecodeError, ValueError, TypeError, RecursionError, OverflowError)

encode = msgspec.msgpack.Encoder().encode


def decode_request(payload: bytes | memoryview) -> Request:
    """Decode an envelope.

    Raises InvalidArgumentError when it is malformed, UnimplementedError on another version.
    """
    try:
        request = _request_decoder.decode(payload)
        if payload[0] & 0x0F != _PLAIN_ENTRIES or request.params is EMPTY_PARAMS:
            _refuse_duplicate_keys(payload, ("credit",))
    except MALFORMED as exc:
        raise InvalidArgumentError(explain(exc, Request)) from exc
    if request.v != VERSION:
        raise UnimplementedError(
            f"protocol version {request.v} is not spoken here: expected {VERSION}",
            hint="use a client of the server's generation",
        )
    return request


# v, id, method and params, each needed: four entries leave no room for a duplicate.
_PLAIN_ENTRIES = 4


class _IdAlone(msgspec.Struct):
    """The id of an envelope, whatever else is wrong with it."""

    id: msgspec.Raw


_id_alone_decoder = msgspec.msgpack.Decoder(_IdAlone)
_id_decoder: msgspec.msgpack.Decoder[str | int] = msgspec.msgpack.Decoder(RequestId)


def read_id(payload: bytes | memoryview) -> str | int | None:
    """Find the id of a request whose envelope was refused, or None."""
    try:
        return _id_decoder.decode(_id_alone_decoder.decode(payload).id)
    except MALFORMED:
        return None


class ParamsDecoder:
    """Decodes the params of one method, naming the field at fault."""

    __slots__ = ("_decode", "_maps", "_type")

    def __init__(self, request: type[msgspec.Struct]) -> None:
        self._type = request
        self._decode = msgspec.msgpack.Decoder(request).decode
        self._maps = tuple(
            field.encode_name for field in msgspec.structs.fields(request) if _holds_map(field.type)
        )

    def __call__(self, params: msgspec.Raw) -> msgspec.Struct:
        """Decode; raises InvalidArgumentError."""
        view = memoryview(params)
        try:
            decoded: msgspec.Struct = self._decode(view)
            if self._maps or view[0] not in _AT_MOST_ONE_ENTRY:
                _refuse_duplicate_keys(view, self._maps)
        except MALFORMED as exc:
            raise InvalidArgumentError(explain(exc, self._type)) from exc
        return decoded


_AT_MOST_ONE_ENTRY = (0x80, 0x81)


_keys_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])


def _refuse_duplicate_keys(payload: bytes | memoryview, inside: Iterable[str] = ()) -> None:
    """Look into the map itself and into the maps under the keys `inside`, all the way down.

    The other values stay undecoded: a hostile one would be many times larger as objects.
    """
    entries = _keys_decoder.decode(payload)
    announced = _entries(payload)
    if len(entries) != announced:
        raise ValueError(f"{announced - len(entries)} of {announced} keys stand twice")
    for key in inside:
        value = entries.get(key)
        if value is not None and _is_map(view := memoryview(value)):
            _refuse_duplicate_keys(view, _keys_decoder.decode(view))


def _is_map(value: memoryview) -> bool:
    return value[0] & 0xF0 == _FIXMAP or value[0] in (_MAP_16, _MAP_32)


def _holds_map(kind: Any) -> bool:
    arguments = getattr(kind, "__args__", ())
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return (
        is_struct
        or kind is dict
        or getattr(kind, "__origin__", None) is dict
        or any(map(_holds_map, arguments))
    )


def _entries(payload: bytes | memoryview) -> int:
    """How many entries a map says it has (msgpack: fixmap, map 16, map 32)."""
    if payload[0] & 0xF0 == _FIXMAP:
        return payload[0] & 0x0F
    size = 2 if payload[0] == _MAP_16 else 4
    return int.from_bytes(payload[1 : 1 + size], "big")


_FIXMAP, _MAP_16, _MAP_32 = 0x80, 0xDE, 0xDF


def decode_incoming(payload: bytes) -> Incoming:
    """Decode what a server sent; raises InvalidArgumentError when it is malformed."""
    try:
        return _incoming_decoder.decode(payload)
    except MALFORMED as exc:
        raise InvalidArgumentError(f"the server's reply is malformed: {exc}") from exc


def decode_as(kind: type[S], payload: msgspec.Raw | bytes) -> S:
    """Decode a result or an item as its type; raises InvalidArgumentError."""
    try:
        decoded: S = _decoder(kind).decode(payload)
    except MALFORMED as exc:
        raise InvalidArgumentError(f"the server's reply is malformed: {exc}") from exc
    return decoded


# msgspec looks at a type once, at its first use; a thread that uses it meanwhile finds half of what
# there is to know of it, and crashes. Clients of different threads share their types.
_FIRST_USE = threading.Lock()


@cache
def _decoder(kind: type[S]) -> msgspec.msgpack.Decoder[S]:
    with _FIRST_USE:
        return msgspec.msgpack.Decoder(kind)


def success(request_id: str | int, result: object, most_bytes: int) -> bytes:
    """Encode a result as the reply to a request.

    Raises ResourceExhaustedError when that has more than `most_bytes`.
    """
    message = encode(Result(v=VERSION, id=request_id, result=result))
    if len(message) > most_bytes:
        raise ResourceExhaustedError(
            f"the reply has {len(message)} bytes, more than network.max_message_size"
            f" ({most_bytes})",
            hint="ask for less at once: a smaller limit",
            retryable=False,
        )
    return message


def failure(request_id: str | int | None, error: DescartesError) -> bytes:
    """Encode an error as the reply to a request."""
    return encode(Failure(v=VERSION, id=request_id, error=wire_error(error)))


def wire_error(error: DescartesError) -> WireError:
    """Turn an error into what travels."""
    return WireError(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        hint=error.hint,
        details=error.details,
    )


def error_of(wire: WireError) -> DescartesError:
    """Rebuild the error a server sent."""
    return from_wire(
        wire.code,
        wire.message,
        hint=wire.hint,
        retryable=wire.retryable,
        details=wire.details,
    )


def explain(exc: BaseException, kind: type[msgspec.Struct]) -> str:
    """Say in one sentence which field broke which rule."""
    if isinstance(exc, RecursionError):
        return "the message is nested too deeply"
    if isinstance(exc, UnicodeDecodeError):
        return "the message holds text that is not valid UTF-8"
    text = _told(exc)
    if unknown := _UNKNOWN_FIELD.search(text):
        return _unknown_key(unknown["field"], unknown["path"] or "$", kind)
    if at_key := _AT_KEY.match(text):
        return f"a key of {_place(at_key['path'])}: {_lower(at_key['what'])}"
    match = _AT_PATH.match(text)
    if match is None or not match["path"]:
        return f"the message is malformed: {_lower(text)}"
    return f"{_place(match['path'])}: {_lower(match['what'])}"


def broken_rule(exc: msgspec.ValidationError) -> tuple[str, bool]:
    """What was expected where a map with one entry was refused, and whether of its key."""
    text = _told(exc)
    if at_key := _AT_KEY.match(text):
        return _lower(at_key["what"]), True
    match = _AT_PATH.match(text)
    return _lower(match["what"] if match else text), False


def _told(exc: BaseException) -> str:
    text = _PATTERN.sub(_in_words, str(exc))
    return _BOUND.sub(_bound_in_words, _LENGTH.sub(_length_in_words, text))


def _place(path: str) -> str:
    # `[...]` stands for the value of some key.
    holder, is_value, _ = path.partition("[...]")
    name = holder.removeprefix("$.").removeprefix("$") or "the message"
    return f"a value of {name}" if is_value else name


def _length_in_words(match: re.Match[str]) -> str:
    one, many = _COUNTED.get(match["kind"], ("entry", "entries"))
    unit = one if match["count"] == "1" else many
    return f"expected {_THAN[match['than']]} {match['count']} {unit}"


def _bound_in_words(match: re.Match[str]) -> str:
    return f"expected {_THAN[match['than']]} {match['bound']}"


def _in_words(match: re.Match[str]) -> str:
    for pattern, words in PATTERN_WORDS.items():
        if match["pattern"] == repr(pattern):
            return f"expected {words}"
    return match[0]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _unknown_key(key: str, path: str, kind: type[msgspec.Struct]) -> str:
    where = f" in {path.removeprefix('$.')}" if path != "$" else ""
    near = nearest(key, known_keys(kind))
    suggestion = f": did you mean '{near}'" if near else ""
    return f"unknown key '{key[:64]}'{where}{suggestion}"


def known_keys(kind: type[msgspec.Struct]) -> set[str]:
    """Every key of a message and of the messages inside it."""
    found: set[str] = set()
    pending: list[Any] = [kind]
    seen: set[type] = set()
    while pending:
        current = pending.pop()
        if isinstance(current, type) and issubclass(current, msgspec.Struct):
            if current not in seen:
                seen.add(current)
                fields = msgspec.structs.fields(current)
                found.update(f.encode_name for f in fields)
                pending.extend(f.type for f in fields)
        else:
            pending.extend(getattr(current, "__args__", ()))
    return found


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like this one, if any is near."""
    from difflib import get_close_matches  # noqa: PLC0415  # only errors need it

    found = get_close_matches(word[:64], list(known), n=1)
    return found[0] if found else None
