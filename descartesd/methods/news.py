"""What an action tells of its progress, on the way to whoever follows it."""

from __future__ import annotations

import asyncio
import contextlib

from msgspec import Raw

from descartesd.transport.streams import Stream
from descartesd.wire import codec
from descartesd.wire.action import ActionItem

_MOST_TEXT = 1000


class News:
    """Keeps the last that was told; who reads slowly misses what came in between.

    Made in the event loop; `progress` may be called from any thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._item: ActionItem | None = None
        self._woken = asyncio.Event()
        self._is_over = False

    def progress(self, done: float, total: float | None = None, text: str = "", /) -> None:
        """Tell how far it is."""
        known = None if total is None else float(total)
        shown = str(text)[:_MOST_TEXT].encode(errors="replace").decode()
        item = ActionItem(done=float(done), total=known, text=shown or None)
        # The loop may have ended before the action does.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: ActionItem) -> None:
        self._item = item
        self._woken.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._is_over = True
        self._woken.set()

    async def tell(self, stream: Stream) -> None:
        """Push what comes until the end; whoever is gone is told nothing."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                await self._woken.wait()
                self._woken.clear()
                item, self._item = self._item, None
                if item is not None:
                    encoded = Raw(codec.encode(item))
                    await stream.push(encoded, len(memoryview(encoded)))
                if self._is_over:
                    return
