"""Ends what an earlier keeper's agents left running when that keeper was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Final

from descartesd.errors import DeadlineExceededError
from descartesd.keeper import fields, procfs
from descartesd.keeper.cgroup import Groups
from descartesd.keeper.loop import Loop, Steps, boottime
from descartesd.keeper.procfs import Process
from descartesd.keeper.server import Request
from descartesd.keeper.tree import signal_process

LIMIT_S: Final = 5.0
QUIET_LOOKS: Final = 2
DELAY_MIN_S: Final = 0.001
DELAY_MAX_S: Final = 0.05


class Lost:
    """Agents of an earlier keeper: their ids, and the start times of their leaders by pid."""

    def __init__(self, agents: list[fields.Fields]) -> None:
        self._ids = {fields.agent_id(each) for each in agents}
        self._leaders = {
            fields.number(each, "pid", least=1): fields.number(each, "start_time")
            for each in agents
        }

    def has(self, process: Process, processes: Mapping[int, Process]) -> bool:
        """Whether it is a leader, in a leader's session or group, or has an id of theirs."""
        if self._leaders.get(process.pid) == process.start_time:
            return True
        for number in (process.session, process.group):
            started = self._leaders.get(number)
            if started is None or process.start_time < started:
                continue
            leader = processes.get(number)
            # Another process under the leader's pid means that the old session is gone.
            if leader is None or leader.start_time == started:
                return True
        return procfs.agent_id(process.pid) in self._ids


class Recovery:
    """The operation `recover`."""

    def __init__(self, loop: Loop, groups: Groups) -> None:
        self._loop = loop
        self._groups = groups

    def recover(self, request: Request) -> None:
        """`{agents: [{agent_id, pid, start_time}]}` -> `{ended}`, when nothing of them is left.

        What was in their control groups was killed when this keeper started, and counts.
        """
        agents = fields.mappings(request.fields, "agents")
        if not agents:
            request.reply({"ended": 0})
            return
        lost = Lost(agents)
        self._loop.start(self._recovering(lost, request))

    def _recovering(self, lost: Lost, request: Request) -> Steps:
        deadline = boottime() + LIMIT_S
        ended: set[tuple[int, int]] = set()
        delay_s = 0.0
        quiet_looks = 0
        # /proc is no snapshot: what forks and exits all the time can slip through one look.
        while quiet_looks < QUIET_LOOKS:
            remains = list(_remains(lost, spared={request.peer_pid}))
            quiet_looks = 0 if remains else quiet_looks + 1
            if remains and boottime() > deadline:
                request.fail(
                    DeadlineExceededError(
                        f"process {remains[0].pid} of a lost agent still lives"
                        f" {LIMIT_S:g} s after SIGKILL"
                    )
                )
                return
            for process in remains:
                if signal_process(process.pid, process.start_time, signal.SIGKILL):
                    ended.add((process.pid, process.start_time))
            yield delay_s
            delay_s = min(2 * delay_s + DELAY_MIN_S, DELAY_MAX_S)
        before, self._groups.ended = self._groups.ended, 0
        request.reply({"ended": before + len(ended)})


def _remains(lost: Lost, *, spared: set[int]) -> Iterator[Process]:
    """Every living process of the lost agents, by one look over the host, parents first."""
    processes = {pid: process for pid in procfs.pids() if (process := procfs.read(pid))}
    families: dict[int, list[int]] = {}
    for process in processes.values():
        families.setdefault(process.ppid, []).append(process.pid)
    # Descendants of this keeper are its own agents; its ancestors would take it along.
    done = {*spared, *_ancestors(processes, os.getpid()), *_family(families, os.getpid())}
    for root in processes.values():
        if not lost.has(root, processes):
            continue
        for pid in _family(families, root.pid):
            if pid not in done:
                done.add(pid)
                if not processes[pid].is_gone:
                    yield processes[pid]


def _family(families: Mapping[int, list[int]], root: int) -> list[int]:
    members = [root]
    for member in members:
        members.extend(families.get(member, ()))
    return members


def _ancestors(processes: Mapping[int, Process], pid: int) -> Iterator[int]:
    while (process := processes.get(pid)) is not None:
        yield pid
        pid = process.ppid
