"""What is done to every process of an agent: signals, and freezing and thawing them.

In steps of at most STEP processes, so that no tree holds up the loop.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Final

from descartesd.keeper import procfs
from descartesd.keeper.agent import Agent
from descartesd.keeper.loop import Steps, boottime
from descartesd.keeper.procfs import Process
from descartesd.keeper.tree import Identity, Tree

STEP: Final = 64
QUIET_ROUNDS: Final = 2
DELAY_MIN_S: Final = 0.001
DELAY_MAX_S: Final = 0.05
STILL_LIMIT_S: Final = 0.1


class Reach:
    """Reaches the whole tree of an agent, however fast it forks."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def send(self, agent: Agent, signum: int) -> Generator[float, None, int]:
        """Signal the whole tree; returns how many processes the signal reached."""
        # The whole tree first: the children of a parent that dies of it would be out of sight.
        tree: list[Process] = []
        for process in self._tree.walk(agent):
            tree.append(process)
            if len(tree) % STEP == 0:
                yield 0.0
        if signum == signal.SIGCONT:
            # A shell with job control that sees its foreground job stopped takes the terminal.
            tree.reverse()
        reached = 0
        for count, process in enumerate(tree, 1):
            if not process.is_gone:
                if agent.signalled is not None:
                    agent.signalled.add((process.pid, process.start_time))
                reached += self._tree.signal(agent, process, signum)
            if count % STEP == 0:
                yield 0.0
        return reached

    def freeze(self, agent: Agent, limit_s: float) -> Generator[float, None, int | None]:
        """Have nothing of the agent run; after `limit_s` the pid of a process that still may."""
        group = agent.group
        if group is None:
            return (yield from self.freeze_tree(agent, limit_s))
        deadline = boottime() + limit_s
        delay_s = DELAY_MIN_S
        group.freeze()
        while not group.is_frozen:
            if boottime() >= deadline:
                return next(iter(group.pids()), agent.pid)
            yield delay_s
            delay_s = min(2 * delay_s, DELAY_MAX_S)
        return None

    def thaw(self, agent: Agent) -> Generator[float, None, None]:
        """Let everything of the agent go on."""
        if agent.group is not None:
            agent.group.thaw()
        else:
            yield from self.send(agent, signal.SIGCONT)

    def freeze_tree(self, agent: Agent, limit_s: float) -> Generator[float, None, int | None]:
        """Stop the tree until two whole rounds meet nothing new, nothing running, nothing lost.

        Returns None, or after `limit_s` the pid of a process that was new or running.
        """
        deadline = boottime() + limit_s
        met: set[Identity] = set()
        delay_s = 0.0
        quiet_rounds = 0
        restless = agent.pid
        while True:
            misses = self._tree.misses
            found = yield from self._freeze_once(agent, met)
            is_quiet = found is None and misses == self._tree.misses
            quiet_rounds = quiet_rounds + 1 if is_quiet else 0
            if quiet_rounds == QUIET_ROUNDS:
                return None
            restless = found or restless
            if boottime() >= deadline:
                return restless
            yield 0.0 if is_quiet else delay_s
            if not is_quiet:
                delay_s = min(2 * delay_s + DELAY_MIN_S, DELAY_MAX_S)

    def _freeze_once(self, agent: Agent, met: set[Identity]) -> Generator[float, None, int | None]:
        restless = None
        for count, process in enumerate(self._tree.walk(agent), 1):
            if (process.pid, process.start_time) not in met:
                # A zombie too: before it died it may have forked out of this round's sight.
                met.add((process.pid, process.start_time))
                restless = process.pid
            elif not (process.is_gone or procfs.is_still(process)):
                restless = process.pid
            if restless == process.pid and not process.is_gone:
                self._tree.signal(agent, process, signal.SIGSTOP)
                if agent.terminal is not None:
                    yield from _until_still(process.pid)
            if count % STEP == 0:
                yield 0.0
        return restless


def _until_still(pid: int) -> Steps:
    """Wait until a process has stopped, so that it sees none of its children stop."""
    deadline = boottime() + STILL_LIMIT_S
    while (process := procfs.read(pid)) is not None and not procfs.is_still(process):
        if boottime() > deadline:
            return
        yield DELAY_MIN_S
