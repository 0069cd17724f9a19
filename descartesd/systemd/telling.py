"""Keeps systemd told how a server is, from when it serves until it has stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from descartesd.systemd.extending import extending
from descartesd.systemd.service import Service
from descartesd.systemd.status import stopping_sentence
from descartesd.systemd.watchdog import feed

_STATUS_EVERY_S = 1.0
# What a stop takes beside the agents' grace.
_STOP_S = 15.0


class Telling:
    """`sentence` says how the server is; `check` raises, or never returns, if it is not well."""

    def __init__(
        self,
        service: Service,
        sentence: Callable[[], str],
        check: Callable[[], Awaitable[None]],
    ) -> None:
        self._service = service
        self._sentence = sentence
        self._check = check

    def ready(self) -> None:
        """It serves from now on."""
        if self._service.is_managed:
            self._service.ready(self._sentence())

    async def run(self) -> None:
        """Tell what changes, and feed the watchdog; until cancelled."""
        if not self._service.is_managed:
            return
        async with asyncio.TaskGroup() as group:
            if self._service.watchdog_s is not None:
                group.create_task(
                    feed(self._service.notifier, self._service.watchdog_s, self._check),
                    name="watchdog",
                )
            while True:
                await asyncio.sleep(_STATUS_EVERY_S)
                self._service.notifier.status(self._sentence())

    @contextlib.asynccontextmanager
    async def stopping(
        self, grace_s: float, left: Callable[[], tuple[int, int]]
    ) -> AsyncIterator[None]:
        """It stops, within the block.

        What it ends has `grace_s` seconds to do so by itself; `left` counts agents and requests.
        """
        notifier = self._service.notifier
        notifier.stopping("stopping")

        def look() -> tuple[int, int]:
            found = left()
            notifier.status(stopping_sentence(*found))
            return found

        # Nothing may happen for as long as the most patient agent is waited for.
        patience_s = grace_s + _STOP_S
        longest_s = grace_s + 2 * _STOP_S
        async with extending(notifier, look, patience_s=patience_s, longest_s=longest_s):
            yield
        notifier.status("stopping")
