"""The end of the keeper: every agent by its own stop signal and grace, then whatever is left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from descartesd.keeper.agent import Agents
from descartesd.keeper.control import Control
from descartesd.keeper.loop import Loop, Steps, boottime
from descartesd.keeper.server import Request
from descartesd.keeper.spawn import Spawning
from descartesd.keeper.tree import Tree, signal_process
from descartesd.keeper.wait import EOF_LIMIT_S

STOPS_PER_STEP: Final = 16
POLL_S: Final = 0.01
STRAYS_LIMIT_S: Final = 2.0


class Ending:
    """Ends everything once, however often it is asked to."""

    def __init__(
        self, loop: Loop, agents: Agents, tree: Tree, control: Control, *, spawning: Spawning
    ) -> None:
        self._loop = loop
        self._agents = agents
        self._tree = tree
        self._control = control
        self._spawning = spawning
        self._requests: list[Request] = []
        # Called once, before anything is ended.
        self.on_begin: Callable[[], None] = _nothing

    def shutdown(self, request: Request) -> None:
        """The operation `shutdown`: answered right before the keeper exits."""
        self._requests.append(request)
        self.begin()

    def begin(self) -> None:
        """Start nothing more, end all agents, leave the loop."""
        if not self._spawning.is_refusing:
            self._spawning.is_refusing = True
            self.on_begin()
            self._loop.start(self._ending())

    def _ending(self) -> Steps:
        for count, agent in enumerate(self._agents, 1):
            if agent.runs:
                self._control.stop(agent, agent.stop_signal, agent.stop_grace_s)
            if count % STOPS_PER_STEP == 0:
                yield 0.0
        while not all(agent.is_swept for agent in self._agents):
            yield POLL_S
        yield from self._wait(self._end_strays, STRAYS_LIMIT_S)
        yield from self._wait(lambda: all(agent.eof for agent in self._agents), 2 * EOF_LIMIT_S)
        for agent in self._agents:
            for stream in agent.streams:
                stream.abandon()
        # After the facts of this turn, so that the daemon has them all.
        yield 0.0
        for request in self._requests:
            request.reply({})
        self._loop.stop()

    def _wait(self, is_done: Callable[[], bool], limit_s: float) -> Steps:
        deadline = boottime() + limit_s
        while not is_done() and boottime() < deadline:
            yield POLL_S

    def _end_strays(self) -> bool:
        strays = [each for found in self._tree.orphans(refresh=True).values() for each in found]
        for pid, start_time in strays:
            signal_process(pid, start_time, signal.SIGKILL)
        return not strays


def _nothing() -> None:
    return None
