"""What this process leaves to the program it turns into: everything it knows, in a memory file.

The state is one msgpack map. Keys that end in `_fd` are descriptors, which stay open over
execve(2), -1 is none; no key comes from a client. A program reads the formats it knows; keys are
only added within one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from descartesd.errors import StartupRefusedError
from descartesd.keeper import protocol
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Groups, remove_when_empty
from descartesd.keeper.control import Control
from descartesd.keeper.loop import Loop, Timer
from descartesd.keeper.output import Pump
from descartesd.keeper.server import Server
from descartesd.keeper.spawn import Spawning
from descartesd.keeper.stdin import Stdin
from descartesd.keeper.terminal import Terminal
from descartesd.keeper.tree import Tree
from descartesd.keeper.wait import Reaper

FORMAT: Final = 1
# Names the memory file's descriptor to the program this process turns into.
VARIABLE: Final = "DESCARTES_KEEPER_STATE"
# What is wrong with a state raises one of these.
MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
# Attributes of an agent that are handed over as they are.
PLAIN: Final = (
    "agent_id", "attempt", "cpu_seconds", "ended_at", "ended_by", "exit_code", "fence_at",
    "is_killed", "is_out_of_memory", "is_swept", "keeps_rest", "leftovers", "limits_enforced",
    "name", "paused_at", "pid", "run_s", "signal", "start_time", "started_at", "state",
    "stop_grace_s", "stop_signal", "tmp",
)  # fmt: skip
TIMERS: Final = ("run", "kill", "eof", "count")

State = Mapping[str, Any]
Timers = Mapping[str, float | None]


class Parts(NamedTuple):
    """The parts of a keeper that have a state."""

    loop: Loop
    agents: Agents
    pump: Pump
    groups: Groups
    tree: Tree
    control: Control
    reaper: Reaper
    server: Server
    spawning: Spawning


def collect(parts: Parts) -> dict[str, Any]:
    """The state of all parts; no task may be unfinished but those that can be begun anew."""
    # A removed agent whose processes are still being ended is known as their leader alone.
    agents = dict.fromkeys([*parts.agents, *parts.agents.leaders.values()])
    return {
        "format": FORMAT,
        "version": protocol.VERSION,
        "agents": [_agent_state(agent, parts.agents) for agent in agents],
        "punches": parts.pump.punches,
        "groups": parts.groups.state(),
        "kin": parts.tree.state(),
        "server": parts.server.state(),
        "stuck": parts.spawning.lookups.stuck,
        "open_files": parts.spawning.limits.inherited_files,
    }


def restore(parts: Parts, state: State) -> Callable[[], None]:
    """Put the state into new parts; what is returned takes up what was being done.

    Nothing is done, but to this process, until that is called. Raises MALFORMED.
    """
    found: list[tuple[Agent, Timers]] = []
    known: dict[str, Agent] = {}
    for told in state["agents"]:
        agent = _restore_agent(parts, told)
        found.append((agent, told["timers"]))
        if told["is_known"]:
            known[agent.agent_id] = agent
    parts.tree.restore(state["kin"], known)
    parts.server.restore(state["server"], parts.agents)
    return partial(_go_on, parts, found, list(state["stuck"]))


def write(state: State) -> int:
    """A memory file of the state; raises OSError."""
    fd = os.memfd_create("descartes-keeper", os.MFD_CLOEXEC)
    try:
        view = memoryview(protocol.pack(state))
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> State:
    """The state in a memory file.

    Raises StartupRefusedError for what is none, or one of another format.
    """
    try:
        state = protocol.unpack(os.pread(fd, os.fstat(fd).st_size, 0))
        told = state["format"]
    except MALFORMED as exc:
        raise StartupRefusedError(f"the state of the keeper is malformed: {exc}") from exc
    if told != FORMAT:
        raise StartupRefusedError(
            f"the state of the keeper is of format {told}: this one reads {FORMAT}"
        )
    return state


def descriptors(state: Any) -> Iterator[int]:
    """Every descriptor of a state."""
    if isinstance(state, list):
        for each in state:
            yield from descriptors(each)
    elif isinstance(state, dict):
        for key, value in state.items():
            if not key.endswith("_fd"):
                yield from descriptors(value)
            elif value >= 0:
                yield value


def stand_in(state: Any) -> Any:
    """The state with descriptors that do nothing in place of its own; to try it without harm."""
    if isinstance(state, list):
        return [stand_in(each) for each in state]
    if not isinstance(state, dict):
        return state
    return {
        key: _stand_in(key) if key.endswith("_fd") and value >= 0 else stand_in(value)
        for key, value in state.items()
    }


def _stand_in(key: str) -> int:
    if key in ("listener_fd", "connection_fd"):
        return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach()
    # Which epoll(7) takes, as it does pipes and terminals.
    return os.eventfd(0)


def _due(timer: Timer | None) -> float | None:
    return None if timer is None or timer.callback is None else timer.when


def _agent_state(agent: Agent, agents: Agents) -> dict[str, Any]:
    return {
        **{name: getattr(agent, name) for name in PLAIN},
        "pid_fd": agent.pidfd,
        "has_group": agent.group is not None,
        "met": sorted(agent.met),
        "signalled": None if agent.signalled is None else sorted(agent.signalled),
        "stdout": agent.stdout.state(),
        "stderr": agent.stderr.state(),
        "stdin": None if agent.stdin is None else agent.stdin.state(),
        "terminal_fd": -1 if agent.terminal is None else agent.terminal.descriptor,
        "writers": agent.writers.state(),
        "timers": {f"{name}_at": _due(getattr(agent, f"{name}_timer")) for name in TIMERS},
        "tells_when_swept": agent.on_swept is not None,
        "is_known": agents.find(agent.agent_id) is agent,
        "leads": agents.leaders.get(agent.pid) is agent,
        "holds": agent in agents.holders,
    }


def _restore_agent(parts: Parts, told: State) -> Agent:
    agent = Agent(parts.pump, told["agent_id"])
    for name in PLAIN:
        setattr(agent, name, told[name])
    agent.pidfd = told["pid_fd"]
    if told["has_group"]:
        agent.group = parts.groups.find(agent.agent_id, agent.attempt)
    agent.met = {(pid, start_time) for pid, start_time in told["met"]}
    if told["signalled"] is not None:
        agent.signalled = {(pid, start_time) for pid, start_time in told["signalled"]}
    on_end = partial(parts.reaper.note_stream_end, agent)
    agent.stdout.restore(told["stdout"], on_end)
    agent.stderr.restore(told["stderr"], on_end)
    if told["terminal_fd"] >= 0:
        agent.terminal = Terminal(told["terminal_fd"])
    if told["stdin"] is not None:
        agent.stdin = Stdin.restore(parts.loop, told["stdin"], agent.terminal)
    agent.writers.restore(told["writers"])
    if told["tells_when_swept"]:
        parts.reaper.told_when_swept(agent)
    parts.agents.restore(agent, is_known=told["is_known"], leads=told["leads"], holds=told["holds"])
    parts.reaper.go_on(agent, told["timers"])
    return agent


def _go_on(parts: Parts, found: list[tuple[Agent, Timers]], stuck: list[int]) -> None:
    for agent, timers in found:
        parts.control.go_on(agent, timers)
    parts.spawning.lookups.wait_for(stuck)
    for group in parts.groups.others({(agent.agent_id, agent.attempt) for agent, _ in found}):
        parts.loop.start(remove_when_empty(group), is_resumable=True)
    # Whose end was told to the program before, which had no time to look.
    parts.reaper.reap_orphans()
