"""Lets the threads of a process share one channel: one of them waits on it for all."""

from __future__ import annotations

import math
import os
import select
import threading
import time
import weakref
from collections.abc import Callable

from descartesd.transport.channel import Channel


class Turns:
    """Guards a channel by `lock`; every method is called with it held.

    The thread that finds nobody waiting on the descriptors waits itself, without the lock. Others
    sleep until their own wish is met or the waiting one leaves.
    """

    def __init__(self, channel: Channel) -> None:
        self._lock = threading.Lock()
        self._channel = channel
        self._nudge = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._close_nudge = weakref.finalize(self, os.close, self._nudge)
        self._close_nudge.atexit = False
        self._is_led = False
        self._is_leader_done: Callable[[], bool] = _never
        self._planned: tuple[int, float] = (-1, math.inf)
        self._poll = select.poll()
        self._polled = -1
        self._followers: list[tuple[threading.Condition, Callable[[], bool]]] = []
        self._is_closed = False

    @property
    def lock(self) -> threading.Lock:
        """Raises UnavailableError in a forked process: a thread left behind may hold it there."""
        self._channel.check_process()
        return self._lock

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Keep the channel going until `is_done`."""
        try:
            while not self._go_on(is_done):
                if self._is_led:
                    self._follow(is_done)
                else:
                    self._lead(is_done)
        finally:
            self._hand_on()

    def touch(self) -> None:
        """The channel was called: let it do what follows from that."""
        self._go_on(_never)

    def close(self) -> None:
        """The channel has been closed: let every thread see that."""
        self._is_closed = True
        self._go_on(_never)
        if self._is_led:
            os.eventfd_write(self._nudge, 1)
        else:
            self._close_nudge()

    def _go_on(self, is_done: Callable[[], bool]) -> bool:
        channel = self._channel
        channel.process()
        for condition, is_follower_done in self._followers:
            if is_follower_done():
                condition.notify()
        if self._is_led and not self._is_closed:
            generation, wake_at = self._planned
            if (
                channel.generation != generation
                or channel.wake_at < wake_at
                or self._is_leader_done()
            ):
                os.eventfd_write(self._nudge, 1)
        return is_done()

    def _lead(self, is_done: Callable[[], bool]) -> None:
        wake_at = self._channel.wake_at
        self._watch()
        self._planned = (self._polled, wake_at)
        self._is_leader_done = is_done
        self._is_led = True
        self._lock.release()
        try:
            ready = self._poll.poll(_milliseconds(wake_at))
        finally:
            self._lock.acquire()
            self._is_led = False
            if self._is_closed:
                self._close_nudge()
        if not self._is_closed and (self._nudge, select.POLLIN) in ready:
            os.eventfd_read(self._nudge)

    def _watch(self) -> None:
        if self._polled == self._channel.generation:
            return
        # A closed descriptor's number may have been given out again: begin anew.
        self._poll = select.poll()
        for descriptor in (self._nudge, *self._channel.descriptors()):
            self._poll.register(descriptor, select.POLLIN)
        self._polled = self._channel.generation

    def _follow(self, is_done: Callable[[], bool]) -> None:
        me = (threading.Condition(self._lock), is_done)
        self._followers.append(me)
        try:
            me[0].wait()
        finally:
            self._followers.remove(me)

    def _hand_on(self) -> None:
        if not self._is_led and self._followers:
            self._followers[0][0].notify()


def _never() -> bool:
    return False


def _milliseconds(wake_at: float) -> float | None:
    if wake_at == math.inf:
        return None
    # Rounded up: waking early would only mean to wait again.
    return max(math.ceil((wake_at - time.monotonic()) * 1000), 0)
