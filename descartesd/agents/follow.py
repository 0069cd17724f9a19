"""Wakes followers when an agent's output file grows: one inotify watch per file followed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Protocol

from inotify_simple import INotify, flags


class Waker(Protocol):
    """What a follower waits on."""

    def set(self) -> None:
        """Wake it."""


class Watches:
    """Shares one inotify descriptor; idle while nobody follows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inotify = INotify(nonblocking=True)
        loop.add_reader(self._inotify.fileno(), self._readable)
        self._wakers: dict[int, set[Waker]] = {}
        self._numbers: dict[str, int] = {}

    @contextlib.contextmanager
    def watching(self, path: str, waker: Waker) -> Iterator[None]:
        """Wake `waker` whenever the file changes.

        Raises FileNotFoundError when there is no such file, OSError when the kernel allows no
        further watch (fs.inotify.max_user_watches).
        """
        number = self._add(path, waker)
        try:
            yield
        finally:
            self._drop(path, number, waker)

    def close(self) -> None:
        """Stop watching."""
        if self._inotify.closed:
            return
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()
        self._wakers.clear()
        self._numbers.clear()

    def _add(self, path: str, waker: Waker) -> int:
        number = self._numbers.get(path)
        if number is None:
            number = int(self._inotify.add_watch(path, flags.MODIFY))
            self._numbers[path] = number
        self._wakers.setdefault(number, set()).add(waker)
        return number

    def _drop(self, path: str, number: int, waker: Waker) -> None:
        wakers = self._wakers.get(number)
        if wakers is None:
            return
        wakers.discard(waker)
        if wakers:
            return
        del self._wakers[number]
        if self._numbers.get(path) == number:
            del self._numbers[path]
        if not self._inotify.closed:
            # The file may have been removed, and the watch with it.
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(number)

    def _readable(self) -> None:
        for event in self._inotify.read(timeout=0):
            for waker in self._wakers.get(event.wd, ()):
                waker.set()
