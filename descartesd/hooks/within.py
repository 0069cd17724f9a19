"""Waits for a plugin's coroutine for so long and no longer, whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

# A coroutine that is cancelled may tidy up for so long before nobody waits for it any more.
_LAST_S = 0.2
# A plugin may raise SystemExit, which is no Exception and would end the loop.
CAUGHT = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


class TooLateError(Exception):
    """The time of a call is over."""


async def within(
    work: Coroutine[Any, Any, Any], timeout_s: float, on_end: Callable[[], None] | None = None
) -> Any:
    """Wait for so long and no longer, whether or not the work lets itself be cancelled.

    `on_end` is called when the work has ended indeed. When this is cancelled, so is the work.
    Raises what it raises; TooLateError.
    """
    # Of no TaskGroup: what ignores its cancellation must not keep the server from ending.
    task = asyncio.get_running_loop().create_task(_settled(work))
    if on_end is not None:
        task.add_done_callback(lambda _: on_end())
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        await asyncio.wait({task}, timeout=_LAST_S)
        raise TooLateError(f"{timeout_s:g} s")
    if task.cancelled():
        raise RuntimeError("it was cancelled")
    answer, error = task.result()
    if error is not None:
        raise error
    return answer


async def _settled(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What it returns or raises; a task that raised SystemExit would end the loop."""
    try:
        return await work, None
    except asyncio.CancelledError:
        return None, RuntimeError("it was cancelled")
    except CAUGHT as exc:
        return None, exc
