"""What agents use: memory, processor time, tasks."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Final, NamedTuple

from descartesd.keeper import fields
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Group
from descartesd.keeper.loop import Loop, Steps
from descartesd.keeper.server import Request
from descartesd.keeper.tree import Tree

STEP: Final = 64
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """Of one agent, as it was looked at."""

    memory_bytes: int
    cpu_seconds: float
    tasks: int


class Gauge:
    """The operation `usage`."""

    def __init__(self, loop: Loop, agents: Agents, tree: Tree) -> None:
        self._loop = loop
        self._agents = agents
        self._tree = tree

    def usage(self, request: Request) -> None:
        """`{agent_ids}` -> `{usage: {agent_id: [memory_bytes, cpu_seconds, tasks]}, output_errors:
        {agent_id: sentence}}`.

        Those that do not run are left out of the one, those whose output is written of the other.
        What a control group does not count is added up over
        the agent's processes: memory as their resident sets, in which shared pages count once for
        each (proportional sets cost a walk through every page table), and processor time without
        that of orphans that are gone.
        """
        found = [self._agents.find(each) for each in fields.texts(request.fields, "agent_ids")]
        self._loop.start(self._measuring([agent for agent in found if agent], request))

    def _measuring(self, agents: list[Agent], request: Request) -> Steps:
        found: dict[str, Usage] = {}
        for count, agent in enumerate(agents, 1):
            if agent.runs:
                usage = yield from self._measure(agent)
                agent.cpu_seconds = max(agent.cpu_seconds, usage.cpu_seconds)
                found[agent.agent_id] = usage._replace(cpu_seconds=agent.cpu_seconds)
            if count % STEP == 0:
                yield 0.0
        errors = {agent.agent_id: agent.output_error for agent in agents if agent.output_error}
        request.reply({"usage": found, "output_errors": errors})

    def _measure(self, agent: Agent) -> Generator[float, None, Usage]:
        counted = None if agent.group is None else _of_group(agent.group)
        if counted is not None:
            return counted
        memory = tasks = ticks = 0
        for count, process in enumerate(self._tree.walk(agent), 1):
            if not process.is_gone:
                memory += process.resident_pages
                tasks += process.threads
                ticks += process.ticks
            if count % STEP == 0:
                yield 0.0
        return Usage(memory * _PAGE_BYTES, _cpu_s(agent.group) or ticks / _TICKS_PER_S, tasks)


def _of_group(group: Group) -> Usage | None:
    """All of it from the files of a group; None where a controller is not there."""
    memory, tasks = group.count("memory.current"), group.count("pids.current")
    if memory is None or tasks is None:
        return None
    return Usage(memory, _cpu_s(group), tasks)


def _cpu_s(group: Group | None) -> float:
    return 0.0 if group is None else group.counts("cpu.stat").get("usage_usec", 0) / 1e6
