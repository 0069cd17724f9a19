"""The keeper's single thread: control before pipes, timers on the clock that counts suspension.

Pipes wait in an epoll of their own, nested in the first one: each turn serves every control
descriptor and then at most PIPES_PER_TURN pipes, so a flood delays a request by a few reads only.
The kernel hands out level-triggered descriptors in rotation (epoll(7)), which is the fairness
among pipes.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable, Generator
from typing import Final

PIPES_PER_TURN: Final = 4
TIMERS_PER_TURN_S: Final = 0.002
LONGEST_SLEEP_S: Final = 1.0

Callback = Callable[[int], None]
Steps = Generator[float, None, None]


def boottime() -> float:
    """Seconds since the host started, suspension included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Timer:
    """One call in the future; `when` is a `boottime()`."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call; harmless after the call."""
        self.callback = None


class Task:
    """Work in steps: a generator that yields how many seconds to wait before its next step."""

    __slots__ = ("_is_counted", "_loop", "_steps", "_timer")

    def __init__(self, loop: Loop, steps: Steps, *, is_counted: bool) -> None:
        self._loop = loop
        self._steps = steps
        self._timer: Timer | None = None
        self._is_counted = is_counted
        loop.unfinished += is_counted

    def cancel(self) -> None:
        """Take no further step; harmless after the last one. Not to be called by a step itself."""
        if self._timer is not None:
            self._timer.cancel()
        self._steps.close()
        self._note_end()

    def advance(self) -> None:
        """Take one step and plan the next."""
        delay_s = None
        try:
            delay_s = next(self._steps, None)
        finally:
            if delay_s is None:
                self._note_end()
        if delay_s is not None:
            self._timer = self._loop.call_later(delay_s, self.advance)

    def _note_end(self) -> None:
        self._loop.unfinished -= self._is_counted
        self._is_counted = False


class Loop:
    """Calls back when descriptors are ready and timers due."""

    def __init__(self) -> None:
        self.turn = 0
        # Tasks that nobody could take up again where they are.
        self.unfinished = 0
        self._control = select.epoll()
        self._pipes = select.epoll()
        self._pipes_fd = self._pipes.fileno()
        self._control.register(self._pipes_fd, select.EPOLLIN)
        self._on_control: dict[int, Callback] = {}
        self._on_pipe: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._planned = 0
        self._after_turn: list[Callable[[], None]] = []
        self._is_stopped = False

    def watch(self, fd: int, callback: Callback, *, events: int = select.EPOLLIN) -> None:
        """Serve a control descriptor: `callback(mask)` in every turn in which it is ready."""
        self._control.register(fd, events)
        self._on_control[fd] = callback

    def rewatch(self, fd: int, *, events: int) -> None:
        """Wait for other events of a control descriptor."""
        self._control.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget a control descriptor; to be called before it is closed."""
        self._control.unregister(fd)
        del self._on_control[fd]

    def watch_pipe(self, fd: int, callback: Callback, *, events: int = select.EPOLLIN) -> None:
        """Serve a pipe, in rotation with all others and after every control descriptor."""
        self._pipes.register(fd, events)
        self._on_pipe[fd] = callback

    def rewatch_pipe(self, fd: int, *, events: int) -> None:
        """Wait for other events of a pipe."""
        self._pipes.modify(fd, events)

    def unwatch_pipe(self, fd: int) -> None:
        """Forget a pipe; to be called before it is closed."""
        self._pipes.unregister(fd)
        del self._on_pipe[fd]

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once at `when` (a `boottime()`)."""
        timer = Timer(when, callback)
        self._planned += 1
        heapq.heappush(self._timers, (when, self._planned, timer))
        return timer

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call once after `delay_s` seconds; with 0 in the next turn."""
        return self.call_at(boottime() + delay_s, callback)

    def call_after_turn(self, callback: Callable[[], None]) -> None:
        """Call at the end of every turn."""
        self._after_turn.append(callback)

    def start(self, steps: Steps, *, is_resumable: bool = False) -> Task:
        """Take the first step of a task now; the others come by timer.

        One that `is_resumable` can be begun anew by another program that has this one's state.
        """
        task = Task(self, steps, is_counted=not is_resumable)
        task.advance()
        return task

    def stop(self) -> None:
        """Return from `run` at the end of this turn."""
        self._is_stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._is_stopped:
            self.turn += 1
            self._serve(self._control.poll(self._timeout()))
            self._run_timers()
            for callback in self._after_turn:
                callback()

    def close(self) -> None:
        """Close both epoll descriptors."""
        self._pipes.close()
        self._control.close()

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        pipes_ready = False
        for fd, mask in ready:
            if fd == self._pipes_fd:
                pipes_ready = True
            elif on_control := self._on_control.get(fd):
                on_control(mask)
        if not pipes_ready:
            return
        for fd, mask in self._pipes.poll(0, PIPES_PER_TURN):
            if on_pipe := self._on_pipe.get(fd):
                on_pipe(mask)

    def _timeout(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        # epoll waits on a clock that stands still while the host is suspended: look at ours again.
        return min(max(self._timers[0][0] - boottime(), 0.0), LONGEST_SLEEP_S)

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = boottime()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
                if boottime() - now > TIMERS_PER_TURN_S:
                    return
