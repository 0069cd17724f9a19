"""Keeps systemd told how a server is, from when it serves until it has stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from descartesd.systemd.service import Service
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

    def stopping(self, grace_s: float) -> None:
        """It stops, and what it ends has this long, in seconds, to do so by itself."""
        self._service.notifier.stopping("stopping")
        self._service.notifier.extend(grace_s + _STOP_S)
