"""Runs functions nobody can end in threads of their own, whose end nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any


class NoThreadLeftError(Exception):
    """As many run as may, some of them maybe for ever."""


class Threads:
    """At most so many at once; one that nobody waits for any more counts until it ends."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def run(self, name: str, work: Callable[[], Any], *, at_once: bool = False) -> Any:
        """Wait for what it returns or raises; when cancelled, the thread goes on alone.

        Where too many run it waits for one to end, or raises NoThreadLeftError with `at_once`.
        """
        if at_once and self._free.locked():
            raise NoThreadLeftError
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Callable[[], Any]] = loop.create_future()

        def finish(outcome: Callable[[], Any]) -> None:
            self._free.release()
            if not done.done():
                done.set_result(outcome)

        def thread() -> None:
            outcome = _outcome(work)
            # The loop may have ended before the work did.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, outcome)

        threading.Thread(target=thread, name=name, daemon=True).start()
        return (await done)()


def _outcome(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do the work now; what is returned gives its result, or raises its error, when called."""
    try:
        result = work()
    except BaseException as exc:  # noqa: BLE001  # raised again where it is waited for
        return partial(_raise, exc)
    return lambda: result


def _raise(exc: BaseException) -> None:
    raise exc
