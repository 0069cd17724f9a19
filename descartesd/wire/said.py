"""What clients are told of the events on an agent's stdout."""

from __future__ import annotations

from msgspec import Struct


class Question(Struct, frozen=True, kw_only=True):
    """A tool the agent wants to use and waits for leave; `input` is the begin of its JSON."""

    id: str
    tool: str
    input: str


class EventLines(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an agent's lines: `read` as events, `ignored` as anything else.

    `foreign` events named another agent, and a line `too_long` had over 8 MiB.
    """

    read: int = 0
    ignored: int = 0
    foreign: int = 0
    too_long: int = 0
