"""Messages about who may do what."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from descartesd.wire.agent import AgentId


class PolicyExplain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """May this identity call this method, and do it to this agent?

    `identity` is a certificate's name, `key:SHA256:…` or `uid:N`.
    """

    identity: Annotated[str, Meta(min_length=1, max_length=128)]
    method: Annotated[str, Meta(min_length=1, max_length=64)]
    id: AgentId | None = None


class PolicyExplained(Struct, frozen=True, kw_only=True):
    """The answer, the rule that decides, and a sentence that says so.

    `identity` is the one that was found, as agents name their owner.
    """

    identity: str
    method: str
    allowed: bool
    rule: str
    reason: str
