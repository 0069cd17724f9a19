"""Messages about plugins."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

# `benched`: it failed too often and is left out for a while; `failed`: a part of it has ended.
PluginState = Literal["loaded", "benched", "failed"]


class PluginInfo(Struct, frozen=True, kw_only=True):
    """A plugin: what it takes part in, what it has added, and how its hooks fare.

    `calls` and `errors` count since the server started, `dropped` are facts it was not told,
    `p99_s` are the seconds that 99 of 100 calls took at most. `config` are its settings, only for
    administrators, with a mask instead of each secret.
    """

    name: str
    distribution: str
    version: str
    state: PluginState
    hooks: list[str]
    calls: int
    errors: int
    dropped: int
    p99_s: float
    actions: list[str] = []
    backends: list[str] = []
    metrics: list[str] = []
    exporters: list[str] = []
    last_error: str | None = None
    config: dict[str, Any] | None = None


class PluginTable(Struct, frozen=True, kw_only=True):
    """All plugins of a server, in the order they are asked in."""

    plugins: list[PluginInfo]
