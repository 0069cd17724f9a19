"""Decodes parameters that travel inside others: a verb's in a batch, an action's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from descartesd.errors import InvalidArgumentError
from descartesd.wire import codec

S = TypeVar("S", bound=msgspec.Struct)


def inner(kind: type[S], params: Mapping[str, Any]) -> S:
    """Decode as strictly as a request of its own; raises InvalidArgumentError naming the field."""
    try:
        return msgspec.msgpack.decode(codec.encode(params), type=kind)
    except codec.MALFORMED as exc:
        raise InvalidArgumentError(f"params: {codec.explain(exc, kind)}") from exc
