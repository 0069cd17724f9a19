"""Tells one plugin what has happened: in order, beside everything else, and only so much."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from descartesd.hooks.implementation import Implementation
from descartesd.hooks.record import PluginRecord, now_ns

# Facts that may wait for a plugin.
_MOST = 1000
# Calls of a plugin that may hang at once, each in a thread that nobody can end.
_MOST_HANGING = 4

_Item = tuple[Implementation, Mapping[str, Any]]


class _Turn:
    """A call in a worker's thread: since when, and whether it is waited for still."""

    def __init__(self, item: _Item) -> None:
        self.implementation, self.given = item
        self.began_ns = now_ns()
        self.began = time.monotonic()
        self.is_given_up = False


class Worker:
    """Calls the plain functions of a plugin in a thread; a call that hangs is given up.

    `put` and `look` belong to the event loop's thread.
    """

    def __init__(self, record: PluginRecord, timeout_s: float) -> None:
        self._record = record
        self._timeout_s = timeout_s
        self._items: queue.Queue[_Item] = queue.Queue(_MOST)
        self._lock = threading.Lock()
        self._turn: _Turn | None = None
        self._threads: list[threading.Thread] = []
        self._has_thread = False

    @property
    def is_busy(self) -> bool:
        """Whether something waits or is under way."""
        return self._items.unfinished_tasks > 0

    def put(self, item: _Item) -> None:
        """Have an implementation called with a fact, unless too many wait."""
        try:
            self._items.put_nowait(item)
        except queue.Full:
            _drop(self._record)
            return
        self._see_to_thread()

    def look(self) -> None:
        """Give up the present call if its time is over, and see that the next one is made."""
        with self._lock:
            turn = self._turn
            is_late = turn is not None and time.monotonic() - turn.began >= self._timeout_s
            if turn is not None and is_late:
                turn.is_given_up = True
                self._turn = None
                self._has_thread = False
        if turn is not None and is_late:
            self._items.task_done()
            self._record.went_wrong(
                turn.implementation.hook, turn.began_ns, f"it took more than {self._timeout_s:g} s"
            )
        if not self._items.empty():
            self._see_to_thread()

    def _see_to_thread(self) -> None:
        if self._has_thread:
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= _MOST_HANGING:
            return
        self._has_thread = True
        thread = threading.Thread(
            target=self._work, name=f"plugin {self._record.name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            turn = _Turn(self._items.get())
            if not self._record.may_be_called():
                self._items.task_done()
                continue
            with self._lock:
                self._turn = turn
            turn.implementation.tell(turn.given, partial(self._take_back, turn))
            if turn.is_given_up:
                return
            # Only now: what it did has been noted.
            self._items.task_done()

    def _take_back(self, turn: _Turn) -> bool:
        """Whether a call that has ended was waited for until then."""
        with self._lock:
            if turn.is_given_up:
                return False
            self._turn = None
        return True


class Teller:
    """Calls the coroutine functions of a plugin in the loop, one after the other."""

    def __init__(self, record: PluginRecord, timeout_s: float) -> None:
        self._record = record
        self._timeout_s = timeout_s
        self._items: deque[_Item] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something waits or is under way."""
        return self._task is not None

    def put(self, item: _Item) -> None:
        """Have an implementation called with a fact, unless too many wait."""
        if len(self._items) >= _MOST:
            _drop(self._record)
            return
        self._items.append(item)
        if self._task is None:
            # It raises nothing, and a plugin must not be what the server's TaskGroup waits for.
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._items:
                implementation, given = self._items.popleft()
                if self._record.may_be_called():
                    await implementation.tell_async(given, self._timeout_s)
        finally:
            self._task = None

    async def close(self) -> None:
        """Tell nothing more."""
        self._items.clear()
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _drop(record: PluginRecord) -> None:
    record.dropped += 1
