"""What becomes of work whose error is its result, or a bug of ours."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from descartesd.errors import DescartesError, InternalError
from descartesd.methods.call import Call

log = logging.getLogger(__name__)


async def settled(work: Any, method: str, call: Call | None = None) -> Struct | DescartesError:
    """Run work that nobody may be waiting for any more; its error is its result."""
    try:
        result: Struct = await work
    except DescartesError as exc:
        return bare(exc)
    except Exception as exc:  # the boundary: a bug of ours is answered and logged
        return incident(exc, method, call.about() if call else {})
    return result


def bare(error: DescartesError) -> DescartesError:
    """The error without the frames it came through, which are far larger than it is."""
    return error.with_traceback(None)


def incident(
    exc: BaseException, method: str, about: Mapping[str, object] = MappingProxyType({})
) -> InternalError:
    """Log a bug of ours under an incident id, and make the error that names it.

    `about` are further facts of the line: who asked, and what for.
    """
    number = secrets.token_hex(4)
    log.error("internal", extra={"incident": number, "method": method, **about}, exc_info=exc)
    return InternalError(
        f"a bug in the server, incident {number}",
        hint="report it with the server's log lines of this incident",
    )
