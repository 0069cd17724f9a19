"""Drives a channel from an asyncio loop: readers on its descriptors and one timer."""

from __future__ import annotations

import asyncio
import contextlib
import math

from descartesd.transport.channel import Call, Channel, InboundStream


class LoopDriver:
    """Calls the channel whenever it has something to do; belongs to the running loop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._watched: tuple[int, ...] = ()
        self._generation = -1
        self._timer: asyncio.TimerHandle | None = None
        self._is_scheduled = False
        self._is_closed = False

    def submit(self, exchange: Call | InboundStream) -> None:
        """Send a request; raises as `Channel.submit`."""
        self._channel.submit(exchange)
        self.kick()

    def kick(self) -> None:
        """The channel was called: let it do what follows, once for all calls of this turn."""
        if not self._is_scheduled and not self._is_closed:
            self._is_scheduled = True
            self._loop.call_soon(self._kicked)

    def close(self) -> None:
        """Stop; must come before the channel closes its descriptors."""
        self._is_closed = True
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()

    def abandon(self) -> None:
        """Stop when the loop comes to it, unless it is closed; from any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.close)

    def _kicked(self) -> None:
        self._is_scheduled = False
        self._process()

    def _process(self) -> None:
        if self._is_closed:
            return
        self._channel.process()
        if self._channel.generation != self._generation:
            self._watch()
        wake_at = self._channel.wake_at
        if self._timer is None or wake_at < self._timer.when():
            self._arm(wake_at)

    def _watch(self) -> None:
        self._unwatch()
        self._generation = self._channel.generation
        self._watched = self._channel.descriptors()
        for descriptor in self._watched:
            self._loop.add_reader(descriptor, self._process)

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
        self._watched = ()

    def _arm(self, wake_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at != math.inf:
            # The loop's clock is the channel's: both are time.monotonic.
            self._timer = self._loop.call_at(wake_at, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._process()
