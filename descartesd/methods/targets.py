"""Tells from a request whom or what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from descartesd.wire.methods import Method

# What names the one it is about, in this order; never a key, a token or a value.
_TARGETS = ("id", "name", "fingerprint", "serial", "role", "ttl_s")
_TARGET_MOST = 256


def target_of(method: Method[Any, Any]) -> Callable[[Any], str | None]:
    """How to tell from the params whom a method is about."""
    fields = method.request.__struct_fields__
    if "spec" in fields:
        return attrgetter("spec.name")
    if "verb" in fields:
        return lambda params: f"agent.{params.verb}"
    known = [attrgetter(name) for name in _TARGETS if name in fields]
    return lambda params: _first(get(params) for get in known)


def _first(values: Iterable[object]) -> str | None:
    return next((str(value)[:_TARGET_MOST] for value in values if value is not None), None)
