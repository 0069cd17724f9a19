"""What is kept of a request while it is worked on."""

from __future__ import annotations

from typing import NamedTuple

from descartesd.methods.call import Call
from descartesd.methods.idempotency import Answers
from descartesd.methods.rows import Row
from descartesd.wire.envelope import Request


class Asked(NamedTuple):
    """What is kept of a request beside its decoded params; `digest` of them if it has a key."""

    id: str | int
    deadline_s: float | None
    digest: bytes | None


def asked_of(row: Row, call: Call, request: Request, answers: Answers) -> Asked:
    has_key = row.keyed and call.idem is not None
    return Asked(
        id=request.id,
        deadline_s=request.deadline_s if isinstance(request.deadline_s, float) else None,
        digest=answers.digest(request.params) if has_key else None,
    )
