"""Wakes followers when an agent's output file grows: one inotify watch per file followed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

from inotify_simple import INotify, flags


class Waker(Protocol):
    """What a follower waits on."""

    def set(self) -> None:
        """Wake it."""


class Watches:
    """Shares one inotify descriptor; idle while nobody follows.

    A file that is not there yet is waited for through a watch on its directory.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: str) -> None:
        self._loop = loop
        self._directory = directory
        self._inotify = INotify(nonblocking=True)
        loop.add_reader(self._inotify.fileno(), self._readable)
        self._wakers: dict[str, set[Waker]] = {}
        self._paths: dict[int, str] = {}
        self._awaited: set[str] = set()
        self._directory_watch: int | None = None

    @contextlib.contextmanager
    def watching(self, name: str, waker: Waker) -> Iterator[None]:
        """Wake `waker` whenever the file `name` of the directory changes or appears.

        Raises OSError when the kernel allows no further watch (fs.inotify.max_user_watches).
        """
        wakers = self._wakers.setdefault(name, set())
        wakers.add(waker)
        try:
            if len(wakers) == 1:
                self._watch(name)
            yield
        finally:
            wakers.discard(waker)
            if not wakers:
                self._forget(name)

    def close(self) -> None:
        """Stop watching."""
        if not self._inotify.closed:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()

    def _watch(self, name: str) -> None:
        try:
            self._watch_file(name)
        except FileNotFoundError:
            self._awaited.add(name)
            if self._directory_watch is None:
                self._directory_watch = self._inotify.add_watch(self._directory, flags.CREATE)
            # It may have appeared before the directory was watched.
            with contextlib.suppress(FileNotFoundError):
                self._watch_file(name)
                self._awaited.discard(name)

    def _watch_file(self, name: str) -> None:
        number = self._inotify.add_watch(os.path.join(self._directory, name), flags.MODIFY)
        self._paths[number] = name

    def _forget(self, name: str) -> None:
        del self._wakers[name]
        self._awaited.discard(name)
        for number in [n for n, watched in self._paths.items() if watched == name]:
            del self._paths[number]
            self._remove(number)
        if not self._awaited and self._directory_watch is not None:
            self._remove(self._directory_watch)
            self._directory_watch = None

    def _remove(self, number: int) -> None:
        if not self._inotify.closed:
            # A file that was deleted took its watch with it.
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(number)

    def _readable(self) -> None:
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                # The kernel has dropped events: nobody knows of which files.
                self._wake_all()
                continue
            name = self._paths.get(event.wd)
            if name is None and event.wd == self._directory_watch and event.name in self._awaited:
                name = event.name
                self._awaited.discard(name)
                self._watch(name)
            for waker in self._wakers.get(name or "", ()):
                waker.set()

    def _wake_all(self) -> None:
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.set()
