"""Runs functions nobody can end in threads of their own, whose end nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any


class Threads:
    """At most so many by `run` at once; one that nobody waits for any more counts until it ends."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        # How many have not ended, whether or not somebody waits for them.
        self.running = 0

    async def run(self, name: str, work: Callable[[], Any]) -> Any:
        """Wait for what it returns or raises; when cancelled, the thread goes on alone.

        Where too many run it waits for one to end first.
        """
        await self._free.acquire()
        return await self.start(name, work, self._free.release)

    def start(
        self, name: str, work: Callable[[], Any], on_end: Callable[[], None] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Begin now, however many run; what is returned waits as `run` does."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Callable[[], Any]] = loop.create_future()

        def finish(outcome: Callable[[], Any]) -> None:
            self.running -= 1
            if on_end is not None:
                on_end()
            if not done.done():
                done.set_result(outcome)

        def thread() -> None:
            outcome = _outcome(work)
            # The loop may have ended before the work did.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, outcome)

        self.running += 1
        threading.Thread(target=thread, name=name, daemon=True).start()
        return _result(done)


async def _result(done: asyncio.Future[Callable[[], Any]]) -> Any:
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
