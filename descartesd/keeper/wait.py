"""Reaps every child: leaders by their pidfd with the exact status, orphans as they come."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.control import Control
from descartesd.keeper.loop import Loop
from descartesd.keeper.tree import Tree

LEADERS_PER_TURN: Final = 64
ORPHANS_PER_TURN: Final = 256


class Reaper:
    """Tells `on_exit` of each leader once, when its status is known and its tree signalled."""

    def __init__(
        self, loop: Loop, agents: Agents, tree: Tree, control: Control,
        *, on_exit: Callable[[Agent], None],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._agents = agents
        self._tree = tree
        self._control = control
        self._on_exit = on_exit
        self._leaders: dict[int, Agent] = {}
        self._pidfds = select.epoll()
        loop.watch(self._pidfds.fileno(), self._on_leaders)

    def expect(self, agent: Agent) -> None:
        """Wait for the leader of an agent that has just been started."""
        self._leaders[agent.pidfd] = agent
        self._pidfds.register(agent.pidfd, select.EPOLLIN)

    def reap_orphans(self) -> None:
        """Reap children that are nobody's leader.

        A dead leader is only looked at (WNOWAIT): its status is taken through its pidfd.
        """
        for _ in range(ORPHANS_PER_TURN):
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            leader = self._agents.leaders.get(ended.si_pid)
            if leader is not None and leader.runs:
                return
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
        self._loop.call_later(0, self.reap_orphans)

    def _on_leaders(self, _mask: int) -> None:
        dead = [self._leaders[fd] for fd, _ in self._pidfds.poll(0, LEADERS_PER_TURN)]
        # All of these are dead by now, so this one list has the orphans of each.
        self._tree.orphans(refresh=True)
        for agent in dead:
            self._control.sweep(agent)
            self._reap(agent)
            self._on_exit(agent)
        self.reap_orphans()

    def _reap(self, agent: Agent) -> None:
        ended = os.waitid(os.P_PIDFD, agent.pidfd, os.WEXITED)
        self._pidfds.unregister(agent.pidfd)
        del self._leaders[agent.pidfd]
        if ended is not None and ended.si_code == os.CLD_EXITED:
            agent.finish(exit_code=ended.si_status, signum=None)
        elif ended is not None:
            agent.finish(exit_code=None, signum=ended.si_status)
