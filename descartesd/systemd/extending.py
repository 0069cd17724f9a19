"""Asks systemd for time while a start or a stop gets on, and only as long as it does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from descartesd.systemd.notify import Notifier

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
# What is asked for each time: a loop that does not turn asks for no more, and is ended by then.
EACH_S: Final = 10.0


@contextlib.asynccontextmanager
async def extending(
    notifier: Notifier, state: Callable[[], object], *, patience_s: float, longest_s: float
) -> AsyncIterator[None]:
    """Ask for a little more time once a second, for the time of a block.

    No more is asked for when `state` has stayed the same for `patience_s` seconds, nor after
    `longest_s` seconds: then what systemd has been promised is all there is.
    """
    if not notifier.is_there:
        yield
        return
    work = _extend(notifier, state, patience_s=patience_s, longest_s=longest_s)
    task = asyncio.get_running_loop().create_task(work, name="asking for time")
    try:
        yield
    finally:
        task.cancel()


async def _extend(
    notifier: Notifier, state: Callable[[], object], *, patience_s: float, longest_s: float
) -> None:
    loop = asyncio.get_running_loop()
    began = changed_at = loop.time()
    last = state()
    while True:
        now = loop.time()
        found = state()
        if found != last:
            last, changed_at = found, now
        if now - changed_at > patience_s or now - began > longest_s:
            log.warning("systemd.no_more_time", extra={"after_s": round(now - began, 1)})
            return
        notifier.extend(EACH_S)
        await asyncio.sleep(EVERY_S)
