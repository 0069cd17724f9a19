"""Tells systemd's watchdog that this process works, each time after having found out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping

from descartesd.errors import DescartesError
from descartesd.systemd.notify import Notifier

log = logging.getLogger(__name__)

_AGAIN_S = 1.0


def watchdog_s(environ: MutableMapping[str, str]) -> float | None:
    """Seconds within which systemd wants to hear, None where it does not ask.

    Takes the variables out of the environment: they are of no child's business.
    """
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1e6


async def feed(notifier: Notifier, within_s: float, check: Callable[[], Awaitable[None]]) -> None:
    """Tell it three times as often as it has to be, and only right after the check has passed.

    The check has a third of the time, counted from when it was due: a loop that comes late to it
    has less. What raises, or takes longer, keeps systemd from being told; it is tried again.
    """
    loop = asyncio.get_running_loop()
    every_s = within_s / 3
    due = loop.time()
    while True:
        try:
            async with asyncio.timeout_at(due + every_s):
                await check()
        except TimeoutError:
            _withhold(f"the self check has not passed within {every_s:.1f} s")
        except DescartesError as exc:
            _withhold(exc.message)
        else:
            notifier.watchdog()
            due = max(due + every_s, loop.time())
            await asyncio.sleep(due - loop.time())
            continue
        due = loop.time() + _AGAIN_S
        await asyncio.sleep(_AGAIN_S)


def _withhold(cause: str) -> None:
    log.error("watchdog.withheld", extra={"cause": cause})
