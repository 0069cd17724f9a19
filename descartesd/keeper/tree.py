"""Which processes are an agent's: its leader, the descendants, and the orphans it left behind.

The process group is not the agent: tools run in sessions of their own. The keeper is a child
subreaper (prctl(2)), so whatever loses its parent becomes its child; such an orphan belongs to the
agent in whose tree it was seen, whose session or group it is in, or whose id its environment has.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from descartesd.keeper import procfs
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Group, Groups
from descartesd.keeper.loop import Loop
from descartesd.keeper.named import Named
from descartesd.keeper.procfs import Process

KIN_MAX: Final = 1024
ANY: Final = -1

# Pid and start time.
Identity = tuple[int, int]
_UNSEEN: Final = (0, None)


class Tree:
    """Finds and signals the processes of agents."""

    def __init__(self, loop: Loop, agents: Agents, groups: Groups) -> None:
        self._loop = loop
        self._agents = agents
        self._groups = groups
        self._named = Named()
        self._pid = os.getpid()
        self._lists_children = procfs.knows_children()
        # How often a process was gone, or elsewhere, between being listed and being read: what it
        # forked in between is in no list yet.
        self.misses = 0
        # Processes other than leaders seen in a tree: pid -> (start_time, agent), None if released.
        self._kin: dict[int, tuple[int, Agent | None]] = {}
        self._kin_max = KIN_MAX
        self._orphans: dict[Agent | None, list[Identity]] = {}
        self._orphans_turn = -1
        # Whether an orphan was in the middle of execve(2), where it shows no environment to be
        # known by: an orphan of no agent then, it may turn out to be one's.
        self.has_unclear = False
        self._families: dict[int, list[int]] = {}
        self._families_turn = -1

    def state(self) -> list[list[Any]]:
        """What `restore` needs: whose the processes are that were seen."""
        return [
            [pid, start_time, None if agent is None else agent.agent_id]
            for pid, (start_time, agent) in self._kin.items()
        ]

    def restore(self, state: Iterable[list[Any]], agents: Mapping[str, Agent]) -> None:
        """Go on where another program of this process has been."""
        for pid, start_time, agent_id in state:
            if agent_id is None or agent_id in agents:
                self._kin[pid] = (start_time, agents.get(agent_id or ""))
        self._kin_max = max(KIN_MAX, 2 * len(self._kin))

    def walk(self, agent: Agent) -> Iterator[Process]:
        """Every process of the agent, parents before their children.

        The children of one are looked up after it has been dealt with: stopped, it has no more.
        """
        if agent.group is not None:
            yield from self.members(agent.group)
            return
        if agent.runs:
            yield from self._descend(agent, [(agent.pid, agent.start_time)])
        yield from self.left_by(agent)

    def members(self, group: Group) -> Iterator[Process]:
        """Every process of a control group, mostly the oldest first."""
        for pid in sorted(group.pids()):
            # Read first: a process that got the pid since it was listed is in no group of ours.
            process = procfs.read(pid)
            if process is not None and group.has(pid):
                yield process

    def left_by(self, agent: Agent) -> Iterator[Process]:
        """As `walk`, of an agent whose leader is dead: by then its children are orphans."""
        yield from self._descend(agent, self.orphans().get(agent, ()))

    def may_have_left(self, agent: Agent) -> bool:
        """Whether a process of an agent whose leader is dead is there, or one that may be its."""
        return agent in self.orphans() or self.has_unclear

    def signal(self, agent: Agent, process: Process, signum: int) -> bool:
        """Signal that very process; False when it is gone or not ours to signal."""
        if process.pid == agent.pid and agent.runs:
            return _send(agent.pidfd, signum)
        return signal_process(process.pid, process.start_time, signum)

    def release(self, pid: int, start_time: int) -> None:
        """Never take it, or an orphan of its session or group, for an agent's again.

        Though it was one's and shows its id.
        """
        self._kin[pid] = (start_time, None)

    def orphans(self, *, refresh: bool = False) -> dict[Agent | None, list[Identity]]:
        """The orphans of each agent, and under None those of no agent; read once a turn.

        With `refresh` they are read again, for what became an orphan within this turn.
        """
        if refresh or self._orphans_turn != self._loop.turn:
            self._families_turn = -1
            self._orphans = self._find_orphans()
            self._orphans_turn = self._loop.turn
        return self._orphans

    def _descend(self, agent: Agent, roots: Iterable[Identity]) -> Iterator[Process]:
        queue = deque((pid, self._pid, start_time) for pid, start_time in roots)
        while queue:
            pid, ppid, start_time = queue.popleft()
            process = procfs.read(pid)
            if process is None or process.ppid != ppid:
                self.misses += 1
                continue
            if start_time not in (ANY, process.start_time):
                self.misses += 1
                self._kin.pop(pid, None)
                continue
            if pid != agent.pid:
                self._remember(process, agent)
            yield process
            queue.extend((child, pid, ANY) for child in self._children(pid, process.threads))

    def _find_orphans(self) -> dict[Agent | None, list[Identity]]:
        found: dict[Agent | None, list[Identity]] = {}
        unplaced: list[Process] = []
        known_children = self._agents.running.keys() | self._agents.helpers
        for pid in set(self._children(self._pid, 1)) - known_children:
            if (known := self._kin.get(pid)) and (known[1] or _lives(pid, known[0])):
                start_time, agent = known
                found.setdefault(agent, []).append((pid, start_time))
            elif (process := procfs.read(pid)) is not None and process.ppid == self._pid:
                if (owner := self._owner_by_place(process)) is None:
                    unplaced.append(process)
                else:
                    found.setdefault(owner, []).append((pid, process.start_time))
        for process, owner in self._owners_by_name(unplaced):
            found.setdefault(owner, []).append((process.pid, process.start_time))
        return found

    def _owner_by_place(self, process: Process) -> Agent | None:
        """Whose it is by the session, the process group or the control group it is in."""
        leaders = self._agents.leaders
        owner = leaders.get(process.session) or leaders.get(process.group)
        if owner is None and not self._is_of_released(process):
            agent_id = self._groups.agent_of(process.pid)
            owner = None if agent_id is None else self._agents.find(agent_id)
        if owner is not None:
            self._remember(process, owner)
        return owner

    def _owners_by_name(self, processes: list[Process]) -> Iterator[tuple[Process, Agent | None]]:
        """Whose they are by what their environments name."""
        self.has_unclear = False
        unnamed = []
        for process in processes:
            if self._is_of_released(process):
                self.release(process.pid, process.start_time)
                yield process, None
            else:
                unnamed.append(process)
        for process, name in self._named.names(unnamed):
            owner = None if name.agent_id is None else self._agents.find(name.agent_id)
            self.has_unclear |= name.is_unclear and not process.is_gone
            if owner is not None:
                self._remember(process, owner)
            yield process, owner

    def _is_of_released(self, process: Process) -> bool:
        return self._is_released(process.session) or self._is_released(process.group)

    def _is_released(self, number: int) -> bool:
        """Whether a session or group is that of a process that was released."""
        start_time, agent = self._kin.get(number, _UNSEEN)
        if start_time == 0 or agent is not None:
            return False
        leader = procfs.read(number)
        return leader is None or leader.start_time == start_time

    def _remember(self, process: Process, agent: Agent) -> None:
        self._kin[process.pid] = (process.start_time, agent)
        if len(self._kin) > self._kin_max:
            self._kin = {pid: kin for pid, kin in self._kin.items() if _lives(pid, kin[0])}
            self._kin_max = max(KIN_MAX, 2 * len(self._kin))

    def _children(self, pid: int, threads: int) -> list[int]:
        if self._lists_children:
            return procfs.children(pid, threads)
        if self._families_turn != self._loop.turn:
            self._families = _families()
            self._families_turn = self._loop.turn
        return self._families.get(pid, [])


def signal_process(pid: int, start_time: int, signum: int) -> bool:
    """Signal that very process, not one that has its pid by now; False when it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return _lives(pid, start_time) and _send(pidfd, signum)
    finally:
        os.close(pidfd)


def _send(pidfd: int, signum: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _lives(pid: int, start_time: int) -> bool:
    return procfs.start_time(pid) == start_time


def _families() -> dict[int, list[int]]:
    families: dict[int, list[int]] = {}
    for pid in procfs.pids():
        process = procfs.read(pid)
        if process is not None:
            families.setdefault(process.ppid, []).append(pid)
    return families
