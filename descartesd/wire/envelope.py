"""The frames around every message: request, reply, stream opening, item and end."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

VERSION = 1
# A message costs this much more on the wire than its payload (CurveZMQ MESSAGE, RFC 26), and
# libzmq counts it against MAXMSGSIZE.
CURVE_OVERHEAD = 33
DEFAULT_CREDIT_ITEMS = 64
DEFAULT_CREDIT_BYTES = 1024 * 1024

RequestId = Annotated[str, Meta(min_length=1, max_length=64)] | Annotated[int, Meta(ge=0)]
EMPTY_PARAMS = Raw(b"\x80")


class Credit(Struct, frozen=True, kw_only=True):
    """How much a stream may send before it is granted more."""

    items: Annotated[int, Meta(ge=0, le=1_000_000)] = DEFAULT_CREDIT_ITEMS
    bytes: Annotated[int, Meta(ge=0, le=1 << 32)] = DEFAULT_CREDIT_BYTES


class Request(Struct, frozen=True, kw_only=True, gc=False):
    """One request. `deadline_s` is relative to its arrival; `idem` makes a re-send harmless."""

    v: int
    id: RequestId
    method: Annotated[str, Meta(max_length=128)]
    params: Raw = EMPTY_PARAMS
    deadline_s: Annotated[float, Meta(gt=0, le=31_536_000)] | UnsetType | None = UNSET
    idem: Annotated[str, Meta(min_length=1, max_length=128)] | UnsetType | None = UNSET
    trace: Annotated[str, Meta(max_length=128)] | UnsetType | None = UNSET
    credit: Credit | UnsetType | None = UNSET


class WireError(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it travels."""

    code: str
    message: str
    retryable: bool
    hint: str | None = None
    details: dict[str, Any] | None = None


class Result(Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a request."""

    v: int
    id: str | int
    result: Any


class Failure(Struct, frozen=True, kw_only=True):
    """The refusal of a request; `id` is None where it could not be read."""

    v: int
    id: str | int | None
    error: WireError


class StreamOpened(Struct, frozen=True, kw_only=True, gc=False):
    """The stream is open; items follow under the same id."""

    v: int
    id: str | int
    stream: bool = True


class StreamItem(Struct, frozen=True, kw_only=True, gc=False):
    """One item; `seq` counts from 0."""

    v: int
    id: str | int
    seq: int
    item: Any


class StreamEnd(Struct, frozen=True, kw_only=True, gc=False):
    """The stream has ended well; an error ends it as a Failure."""

    v: int
    id: str | int
    end: bool = True


class Incoming(Struct, frozen=True, kw_only=True, gc=False):
    """Whatever a server sends, as a client first reads it."""

    v: int
    id: str | int | None = None
    result: Raw | UnsetType = UNSET
    error: WireError | UnsetType = UNSET
    stream: bool = False
    seq: int = 0
    item: Raw | UnsetType = UNSET
    end: bool = False


def raw(message: Struct) -> Raw:
    """Encode params once, for an envelope."""
    return Raw(msgspec.msgpack.encode(message))
