"""Messages about the audit log; a line of it is the same on disk and on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Phase = Literal["intent", "outcome", "refused", "note"]
Word = Annotated[str, Meta(min_length=1, max_length=256)]
Time = Annotated[float, Meta(ge=0)]


class AuditLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: who did what to whom, when, and what became of it.

    An `intent` is written before the work is begun. An `outcome` names the `seq` of its `intent`,
    and is `ok` or the code of an error. A `refused` line stands for `count` refusals of a second.
    `note` is the log's own. `prev` is the BLAKE2b-256 of the bytes of the line before.
    """

    seq: int
    time: float
    identity: str
    certificate: str | None = None
    method: str
    target: str | None = None
    phase: Phase
    outcome: str | None = None
    intent: int | None = None
    count: int | None = None
    failed: int | None = None
    detail: str | None = None
    prev: str


class AuditShow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest lines for which every condition holds, at most `limit` of them.

    `who` is an identity or the name of a certificate, `method` is one, or `cert.*`, `target` an
    agent's id or name or what else a line names. Times are epoch seconds. With `cursor` only older
    lines than that.
    """

    who: Word | None = None
    method: Word | None = None
    target: Word | None = None
    since: Time | None = None
    until: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Annotated[int, Meta(ge=1)] | None = None


class AuditPage(Struct, frozen=True, kw_only=True):
    """Lines, oldest first; with a `cursor` there may be older ones."""

    lines: list[AuditLine]
    cursor: int | None = None


class AuditFault(Struct, frozen=True, kw_only=True):
    """Where the log is not what was written: `line` counts from 1 in `file`.

    A cut tail is told at the last line there is, 0 where there is none; what is wrong with the
    signed head at the file `signed head`, line 0.
    """

    file: str
    line: int
    seq: int
    what: str


class AuditReport(Struct, frozen=True, kw_only=True):
    """Whether the log `holds`: its chain and its signed head.

    `public_key` (Z85) checks the head's signature. `unsigned` lines came after the signed head, at
    most a minute of them. `torn_bytes` of a last line were cut off by a crash.
    """

    holds: bool
    files: int
    lines: int
    first_seq: int
    last_seq: int
    signed_seq: int
    signed_at: float | None
    unsigned: int
    torn_bytes: int
    public_key: str
    faults: list[AuditFault]
