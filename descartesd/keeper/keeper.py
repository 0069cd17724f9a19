"""The composition root of the keeper, and the operations on the whole of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from descartesd.errors import ConflictError, UnimplementedError
from descartesd.keeper import fields, handover, procfs
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Groups, find_groups, remove_when_empty
from descartesd.keeper.control import Control
from descartesd.keeper.ending import Ending
from descartesd.keeper.handover import Parts, State
from descartesd.keeper.host import Host
from descartesd.keeper.lastwords import leave_last_words
from descartesd.keeper.loop import Loop, Steps, Timer, boottime
from descartesd.keeper.output import Pump
from descartesd.keeper.procfs import Process
from descartesd.keeper.protocol import FEATURES, STREAMS, VERSION, build
from descartesd.keeper.recover import Recovery
from descartesd.keeper.reexec import Program, Reexecution
from descartesd.keeper.server import Operation, Request, Server
from descartesd.keeper.signals import Signals
from descartesd.keeper.spawn import SWEPT_POLL_S, Spawning
from descartesd.keeper.tmpdir import TmpDirs
from descartesd.keeper.tree import Tree
from descartesd.keeper.usage import Gauge
from descartesd.keeper.users import Users
from descartesd.keeper.verbs import Verbs
from descartesd.keeper.wait import Reaper

PAGE_MAX: Final = 100
STRAYS_MAX: Final = 100
FORGET_LIMIT_S: Final = 5.0
# What an end takes beside the agents' own time.
STOP_MARGIN_S: Final = 15.0
Say = Callable[[str], None]


class Notices(NamedTuple):
    """Where what this process says goes: `say` to its log, `tell` to systemd."""

    say: Say
    tell: Say


class Place(NamedTuple):
    """Where a keeper works, and for whom."""

    listener: socket.socket
    # Held as long as this process lives: by it no other keeper takes the socket.
    lock: int
    output_dir: str
    idle_exit_s: float | None
    daemon_uid: int | None


class Keeper:
    """Parent of all agents."""

    def __init__(
        self, place: Place, program: Program, notices: Notices, state: State | None = None
    ) -> None:
        """With a `state` it goes on where another program of this process has been.

        Raises handover.MALFORMED where that cannot be.
        """
        say = notices.say
        self._loop = Loop()
        self._agents = Agents()
        punches = None if state is None else state["punches"]
        self._pump = Pump(self._loop, place.output_dir, say, punches=punches)
        trusted = os.geteuid() if place.daemon_uid is None else place.daemon_uid
        self._server = Server(self._loop, place.listener, trusted=trusted, say=say)
        users = Users(place.daemon_uid)
        groups = _own_groups(say) if state is None else Groups.restored(state["groups"])
        self._host = Host(groups, users, TmpDirs(self._loop, self._agents, users))
        for group in groups.left:
            self._loop.start(remove_when_empty(group), is_resumable=True)
        self._tree = Tree(self._loop, self._agents, self._host.groups)
        control = Control(self._loop, self._agents, self._tree)
        reaper = Reaper(self._loop, self._agents, self._tree, control, server=self._server)
        spawning = Spawning(
            self._loop, self._agents, self._pump, reaper, server=self._server, host=self._host
        )
        self._say, self._tell = notices
        self._ending = Ending(self._loop, self._agents, self._tree, control, spawning=spawning)
        self._ending.on_begin = self._tell_stopping
        signals = Signals(self._loop, on_child=reaper.reap_orphans, on_end=self._ending.begin)
        parts = Parts(
            self._loop, self._agents, self._pump, groups, self._tree, control, reaper,
            self._server, spawning,
        )  # fmt: skip
        self._reexecution = Reexecution(parts, program, signals, notices.tell)
        self._server.operations = {
            **self._operations(),
            **Verbs(self._agents, control).operations(),
            "spawn": spawning.spawn,
            "recover": Recovery(self._loop, self._host.groups).recover,
            "usage": Gauge(self._loop, self._agents, self._tree).usage,
            "reexec": self._reexecution.reexec,
            "shutdown": self._ending.shutdown,
        }
        self._take_up = _nothing if state is None else handover.restore(parts, state)
        self._answered = None if state is None else state["request"]
        self._about = self._describe(state or {})
        self._reexecution.about = {
            "lock_fd": place.lock,
            "started_at": self._about["started_at"],
            "reexecutions": self._about["reexecutions"] + 1,
        }
        self._idle_exit_s = place.idle_exit_s
        self._idle_timer: Timer | None = None
        self._loop.call_after_turn(self._mind_idleness)

    def run(self) -> None:
        """Serve until shutdown, a signal or idleness ends it; then no agent is left."""
        self._tell("READY=1")
        self._take_up()
        if self._answered is not None:
            request = self._server.resume_request(self._answered, "reexec")
            if request is not None:
                request.reply(self._facts())
        self._loop.run()
        self._server.flush()
        self._server.close()
        leave_last_words(self._pump.output_dir, self._agents, self._say)

    def _tell_stopping(self) -> None:
        grace_s = max((agent.stop_grace_s for agent in self._agents if agent.runs), default=0.0)
        usec = int((grace_s + STOP_MARGIN_S) * 1e6)
        self._tell(f"STOPPING=1\nSTATUS=ending its agents\nEXTEND_TIMEOUT_USEC={usec}")

    def _operations(self) -> dict[str, Operation]:
        return {
            "hello": self._hello,
            "list": self._list,
            "forget": self._forget,
            "remove": self._remove,
            "strays": self._strays,
        }

    def _hello(self, request: Request) -> dict[str, Any]:
        """`{version}` -> who this keeper is, if it speaks that major version."""
        version = fields.text(request.fields, "version")
        if version.split(".")[0] != VERSION.split(".")[0]:
            raise UnimplementedError(
                f"version '{version}' of the keeper protocol: this keeper speaks {VERSION}",
                hint="restart the keeper, which ends its agents, to get one that fits the daemon",
            )
        return self._facts()

    def _facts(self) -> dict[str, Any]:
        is_there = {
            "hole-punch": self._pump.punches,
            "cgroup": bool(self._host.groups),
            "users": self._host.users.may_change,
        }
        features = [each for each in FEATURES if is_there.get(each, True)]
        return {**self._about, "features": features}

    def _list(self, request: Request) -> dict[str, Any]:
        """`{cursor?, limit?}` -> `{agents, next}`, in the order of the ids."""
        after, limit = "", PAGE_MAX
        if request.fields.get("cursor") is not None:
            after = fields.text(request.fields, "cursor")
        if request.fields.get("limit") is not None:
            limit = min(PAGE_MAX, fields.number(request.fields, "limit", least=1))
        page = self._agents.page(after, limit + 1)
        more = page[limit - 1].agent_id if len(page) > limit else None
        return {"agents": [agent.status() for agent in page[:limit]], "next": more}

    def _forget(self, request: Request) -> dict[str, Any] | None:
        """`{agent_id}` or `{agent_ids}`: drop the records of exited agents; their files stay.

        Of several, those that run are left out. Answered when nothing of their trees is left, at
        the latest after FORGET_LIMIT_S.
        """
        if "agent_ids" in request.fields:
            told = fields.texts(request.fields, "agent_ids")
            ids = [agent_id for agent_id in told if not self._runs(agent_id)]
        else:
            ids = [fields.agent_id(request.fields)]
        unswept = []
        for agent_id in ids:
            agent = self._agents.find(agent_id)
            if agent is not None and not (agent.runs or agent.is_swept):
                # By this record alone what it has left is known to be its own.
                unswept.append(agent)
            else:
                self._drop(agent_id, "forget")
        if not unswept:
            return {}
        self._loop.start(self._forgetting(unswept, request))
        return None

    def _runs(self, agent_id: str) -> bool:
        agent = self._agents.find(agent_id)
        return agent is not None and agent.runs

    def _forgetting(self, agents: list[Agent], request: Request) -> Steps:
        deadline = boottime() + FORGET_LIMIT_S
        while not all(agent.is_swept for agent in agents) and boottime() < deadline:
            yield SWEPT_POLL_S
        # What they have left is told before.
        yield 0.0
        for agent in agents:
            if not agent.runs and self._agents.find(agent.agent_id) is agent:
                self._drop(agent.agent_id, "forget")
        request.reply({})

    def _remove(self, request: Request) -> None:
        """`{agent_id}`: forget an agent, delete its output and its temporary files."""
        agent_id = fields.agent_id(request.fields)
        self._drop(agent_id, "remove")
        for stream in STREAMS:
            self._pump.remove(agent_id, stream)
        self._host.tmp.remove(agent_id, lambda: request.reply({}))

    def _drop(self, agent_id: str, verb: str) -> None:
        agent = self._agents.find(agent_id)
        if agent is None:
            return
        if agent.runs:
            raise ConflictError(
                f"agent '{agent_id}' is {agent.state}: {verb} needs it exited",
                hint="stop or kill it first",
            )
        for stream in agent.streams:
            stream.end()
            stream.abandon()
        self._server.untell(agent)
        self._agents.drop(agent)

    def _strays(self, _request: Request) -> dict[str, Any]:
        """`{}` -> `{strays: [{pid, start_time, command}]}`: orphans of no agent, some of many."""
        return {
            "strays": [
                {
                    "pid": process.pid,
                    "start_time": process.start_time,
                    "command": procfs.command(process.pid),
                }
                for process in islice(self._find_strays(), STRAYS_MAX)
            ]
        }

    def _find_strays(self) -> Iterator[Process]:
        for owner, orphans in self._tree.orphans().items():
            if owner is None or owner.is_swept:
                for pid, start_time in orphans:
                    process = procfs.read(pid)
                    if (
                        process is not None
                        and process.start_time == start_time
                        and not process.is_gone
                    ):
                        yield process

    def _mind_idleness(self) -> None:
        if self._idle_exit_s is None:
            return
        is_idle = not (self._server.is_connected or len(self._agents))
        if is_idle and self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._idle_exit_s, self._ending.begin)
        elif not is_idle and self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _describe(self, before: State) -> dict[str, Any]:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
        return {
            "version": VERSION,
            "build": build(),
            "features": [],
            "pid": os.getpid(),
            "boot_id": boot_id,
            "started_at": before.get("started_at", time.time()),
            "reexecutions": before.get("reexecutions", 0),
            "output_dir": self._pump.output_dir,
        }


def _own_groups(say: Say) -> Groups:
    groups = find_groups()
    try:
        groups.claim()
    except OSError as exc:
        say(f"no control groups: {exc}")
        return Groups()
    return groups


def _nothing() -> None:
    return None
