"""Reaps every child: leaders by their pidfd with the exact status, orphans as they come."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from functools import partial
from typing import Final

from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.control import Control
from descartesd.keeper.loop import Loop
from descartesd.keeper.server import Server
from descartesd.keeper.tree import Tree

LEADERS_PER_TURN: Final = 64
ORPHANS_PER_TURN: Final = 256
EOF_LIMIT_S: Final = 2.0
# How long an end waits for the count of what was left: processes that cannot be killed hold it up.
COUNT_LIMIT_S: Final = 1.0
HELPER_S: Final = 0.05


class Reaper:
    """Takes each leader's status once, tells the daemon, and brings the output to its end."""

    def __init__(
        self, loop: Loop, agents: Agents, tree: Tree, control: Control, *, server: Server
    ) -> None:
        self._loop = loop
        self._agents = agents
        self._tree = tree
        self._control = control
        self._server = server
        self._leaders: dict[int, Agent] = {}
        self._pidfds = select.epoll()
        loop.watch(self._pidfds.fileno(), self._on_leaders)

    def expect(self, agent: Agent) -> None:
        """Wait for the leader of an agent that has just been started."""
        self._leaders[agent.pidfd] = agent
        self._pidfds.register(agent.pidfd, select.EPOLLIN)
        if agent.run_s is not None:
            self._control.limit_run(agent, agent.run_s)

    def go_on(self, agent: Agent, timers: Mapping[str, float | None]) -> None:
        """Wait on for an agent that another program of this process has started.

        `timers` has when its end is told, counted or not, and when its output is ended.
        """
        if agent.runs:
            self._leaders[agent.pidfd] = agent
            self._pidfds.register(agent.pidfd, select.EPOLLIN)
        if timers["count_at"] is not None:
            tell = partial(self._tell, agent)
            agent.count_timer = self._loop.call_at(timers["count_at"], tell)
        if timers["eof_at"] is not None:
            end = partial(_end_output, agent)
            agent.eof_timer = self._loop.call_at(timers["eof_at"], end)

    def told_when_swept(self, agent: Agent) -> None:
        """Have the end of an agent told once all it has left is counted."""
        agent.on_swept = partial(self._tell, agent)

    def note_stream_end(self, agent: Agent) -> None:
        """Tell the daemon when the agent has exited and both streams have ended."""
        if agent.eof:
            if agent.eof_timer is not None:
                agent.eof_timer.cancel()
            self._agents.holders.discard(agent)
            self._server.tell("eof", agent)

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
            if ended.si_pid in self._agents.helpers:
                # Those behind it are seen when who started it has waited for it.
                self._loop.call_later(HELPER_S, self.reap_orphans)
                return
            if ended.si_pid in self._agents.running:
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
            agent.close_input()
            self._tell_when_counted(agent)
        self.reap_orphans()

    def _tell_when_counted(self, agent: Agent) -> None:
        """Tell the end once it says how many were left; late, and once more, if that takes long."""
        if agent.is_swept:
            # The pipes of many that end are many: what each costs every start is kept short.
            agent.stdout.look_for_end()
            agent.stderr.look_for_end()
            self._tell(agent)
        else:
            self.told_when_swept(agent)
            agent.count_timer = self._loop.call_later(COUNT_LIMIT_S, partial(self._tell, agent))
        if not agent.eof:
            agent.eof_timer = self._loop.call_later(EOF_LIMIT_S, partial(_end_output, agent))

    def _tell(self, agent: Agent) -> None:
        if agent.count_timer is not None:
            agent.count_timer.cancel()
            agent.count_timer = None
        agent.close()
        self._server.tell("exited", agent)
        self.note_stream_end(agent)

    def _reap(self, agent: Agent) -> None:
        ended = os.waitid(os.P_PIDFD, agent.pidfd, os.WEXITED)
        self._pidfds.unregister(agent.pidfd)
        del self._leaders[agent.pidfd]
        del self._agents.running[agent.pid]
        if ended is not None and ended.si_code == os.CLD_EXITED:
            agent.finish(exit_code=ended.si_status, signum=None)
        elif ended is not None:
            agent.finish(exit_code=None, signum=ended.si_status)


def _end_output(agent: Agent) -> None:
    for stream in agent.streams:
        stream.end()
