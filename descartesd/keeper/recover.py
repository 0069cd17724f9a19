"""Ends what an earlier keeper's agents left running when that keeper was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Final, NamedTuple

from descartesd.errors import DeadlineExceededError
from descartesd.keeper import fields, procfs
from descartesd.keeper.loop import Loop, Steps, boottime
from descartesd.keeper.procfs import Process
from descartesd.keeper.server import Request
from descartesd.keeper.tree import signal_process

LIMIT_S: Final = 5.0
DELAY_MAX_S: Final = 0.05


class Lost(NamedTuple):
    """An agent of an earlier keeper: its id and its leader's identity."""

    agent_id: str
    pid: int
    start_time: int


class Recovery:
    """The operation `recover`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def recover(self, request: Request) -> None:
        """`{agents: [{agent_id, pid, start_time}]}` -> `{ended}`, when nothing of them is left."""
        lost = [
            Lost(
                fields.agent_id(each),
                fields.number(each, "pid", least=1),
                fields.number(each, "start_time"),
            )
            for each in fields.mappings(request.fields, "agents")
        ]
        self._loop.start(self._recovering(lost, request))

    def _recovering(self, lost: list[Lost], request: Request) -> Steps:
        deadline = boottime() + LIMIT_S
        ended: set[tuple[int, int]] = set()
        delay_s = 0.0
        while remains := list(_remains(lost, spared={os.getpid(), request.peer_pid})):
            if boottime() > deadline:
                request.fail(
                    DeadlineExceededError(
                        f"process {remains[0].pid} of a lost agent still lives"
                        f" {LIMIT_S:g} s after SIGKILL"
                    )
                )
                return
            for process in remains:
                if signal_process(process, signal.SIGKILL):
                    ended.add((process.pid, process.start_time))
            yield delay_s
            delay_s = min(2 * delay_s + 0.001, DELAY_MAX_S)
        request.reply({"ended": len(ended)})


def _remains(lost: list[Lost], *, spared: set[int]) -> Iterator[Process]:
    """Every living process of the lost agents, by one look over the host, parents first."""
    if not lost:
        return
    processes = {pid: process for pid in procfs.pids() if (process := procfs.read(pid))}
    families: dict[int, list[int]] = {}
    for process in processes.values():
        families.setdefault(process.ppid, []).append(process.pid)
    # Children of this keeper are its own agents; an ancestor would take it along.
    kept = spared | set(_ancestors(processes, os.getpid())) | set(_family(families, os.getpid()))
    roots = (pid for pid, process in processes.items() if _belongs(process, lost, processes))
    found: set[int] = set()
    for root in roots:
        for pid in (root, *_family(families, root)):
            if pid not in kept and pid not in found:
                found.add(pid)
                if processes[pid].state not in procfs.GONE:
                    yield processes[pid]


...
