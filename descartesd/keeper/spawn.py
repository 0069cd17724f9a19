"""The operation `spawn`: a new agent, or a further attempt of one that has exited."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any, Final, NamedTuple

from descartesd.errors import (
    ConflictError,
    DescartesError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.keeper import fields
from descartesd.keeper.agent import DESCRIPTORS, Agent, Agents
from descartesd.keeper.cgroup import Group
from descartesd.keeper.host import Host
from descartesd.keeper.launch import HEADROOM, Launch, Launcher, explain_output, try_out
from descartesd.keeper.limits import Bounds, Limits, Plan, plan, read_bounds
from descartesd.keeper.lookups import Lookups
from descartesd.keeper.loop import Loop, Steps
from descartesd.keeper.output import Pump
from descartesd.keeper.server import Request, Server
from descartesd.keeper.stdin import Stdin
from descartesd.keeper.stdio import Ends
from descartesd.keeper.terminal import Terminal
from descartesd.keeper.users import User
from descartesd.keeper.wait import Reaper

GRACE_S: Final = 10.0
SWEPT_POLL_S: Final = 0.002
STDINS: Final = ("null", "pipe")
ON_EXITS: Final = ("kill", "keep")


class Wanted(NamedTuple):
    """A spawn request, checked."""

    agent_id: str
    name: str
    attempt: int
    launch: Launch
    output_bytes: int
    stop_signal: int
    stop_grace_s: float
    on_exit: str
    bounds: Bounds


class Spawning:
    """Starts agents."""

    def __init__(
        self, loop: Loop, agents: Agents, pump: Pump, reaper: Reaper, *, server: Server, host: Host
    ) -> None:
        self._host = host
        self._loop = loop
        self._agents = agents
        self._pump = pump
        self._reaper = reaper
        self._server = server
        self.limits = Limits()
        self._launcher = Launcher(self.limits)
        self.lookups = Lookups(loop, agents)
        # Started in this turn of the loop.
        self._fresh: list[tuple[Agent, Request]] = []
        self.is_refusing = False

    def spawn(self, request: Request) -> dict[str, Any] | None:
        """`{agent_id, name, attempt, argv, cwd, env, path, stdin, rlimits?, output_bytes, stop?,
        tty?: {rows, cols}, on_exit?, env_file?, env_over?, stdin_data?, user?: {uid, gid, groups},
        limits?: {memory_bytes, cpu_percent, tasks, run_seconds, best_effort}, private_tmp?,
        cwd_within?}`.

        `stdin_data` is what the agent finds on its stdin first, without a pipe all of it;
        variables of `env_file` go before `env`, those of `env_over` before both.
        With `cwd_within` the cwd must really be one of these directories or below one.

        Answers `{pid, start_time, started_at, limits_enforced}`; for an attempt already known its
        facts again.
        With `trial` nothing is started: `{}` if program and cwd are there, else the refusal.
        """
        wanted = self._read(request.fields)
        self.limits.check(wanted.launch.rlimits)
        if self.lookups.may_wait(wanted.launch):
            self._loop.start(self._spawn_when_looked_up(wanted, request))
            return None
        return self._spawn(wanted, request)

    def _spawn_when_looked_up(self, wanted: Wanted, request: Request) -> Steps:
        try:
            yield from self.lookups.looking(wanted.launch)
        except DescartesError as error:
            request.fail(error)
            return
        # Else the next daemon has been told that there is no such agent.
        if request.is_wanted:
            self._server.carry_out(request, partial(self._spawn, wanted))

    def _spawn(self, wanted: Wanted, request: Request) -> dict[str, Any] | None:
        if fields.flag(request.fields, "trial"):
            self._plan(wanted)
            try_out(wanted.launch)
            return {}
        agent = self._agents.find(wanted.agent_id)
        if agent is None:
            agent = Agent(self._pump, wanted.agent_id)
            self._start(agent, wanted, request)
            return None
        if wanted.attempt != agent.attempt:
            _check_next(agent, wanted.attempt)
            if not agent.is_swept:
                self._loop.start(self._spawn_when_swept(agent, request))
                return None
            self._start(agent, wanted, request)
            return None
        return _facts(agent)

    def _read(self, request: fields.Fields) -> Wanted:
        tmp = None
        if fields.flag(request, "private_tmp"):
            tmp = self._host.tmp.path(fields.agent_id(request))
        return _read(request, self._host.users.read(request), tmp)

    def _plan(self, wanted: Wanted) -> Plan:
        launch = wanted.launch
        return plan(wanted.bounds, launch.rlimits, self._host.groups, launch.user)

    def _spawn_when_swept(self, agent: Agent, request: Request) -> Steps:
        while not agent.is_swept:
            yield SWEPT_POLL_S
        self._server.handle(request)

    def tell_started(self) -> None:
        """Answer for all that were started in this turn of the loop."""
        fresh, self._fresh = self._fresh, []
        for agent, request in fresh:
            request.reply(_facts(agent))

    def _start(self, agent: Agent, wanted: Wanted, request: Request) -> None:
        self._check_capacity()
        if wanted.attempt > 1:
            _end_output(agent)
            _go_on_with_output(agent)
        planned = self._plan(wanted)
        group = self._make_group(wanted, planned)
        try:
            leader = self._launcher.launch(_limited(wanted.launch, planned), group)
        except DescartesError:
            if group is not None:
                group.remove()
            raise
        self._server.untell(agent)
        agent.begin(wanted.attempt, leader.pid, leader.pidfd, leader.start_time)
        agent.group = group
        agent.tmp = wanted.launch.tmp
        agent.run_s = planned.run_s
        agent.limits_enforced = planned.enforced
        agent.name = wanted.name
        agent.stop_signal = wanted.stop_signal
        agent.stop_grace_s = wanted.stop_grace_s
        agent.keeps_rest = wanted.on_exit == "keep"
        self._attach(agent, leader.ends, wanted.output_bytes)
        if agent.stdin is not None and wanted.launch.stdin_data:
            agent.stdin.write(memoryview(wanted.launch.stdin_data))
        self._agents.add(agent)
        self._reaper.expect(agent)
        # Answered when the turn is over: many answers at once cost the daemon half of what they
        # cost one by one.
        if not self._fresh:
            self._loop.call_later(0, self.tell_started)
        self._fresh.append((agent, request))

    def _make_group(self, wanted: Wanted, planned: Plan) -> Group | None:
        if not self._host.groups:
            return None
        try:
            return self._host.groups.make(wanted.agent_id, wanted.attempt, planned.group)
        except OSError as exc:
            raise ResourceExhaustedError(
                f"no control group for the agent: {exc.strerror}",
                hint="see cgroup.max.descendants of the keeper's service, and the limits asked for",
            ) from exc

    def _attach(self, agent: Agent, ends: Ends, output_bytes: int) -> None:
        if ends.slave >= 0:
            agent.terminal = Terminal(ends.slave)
        if ends.stdin >= 0:
            agent.stdin = Stdin(self._loop, ends.stdin, agent.terminal)
        on_end = partial(self._reaper.note_stream_end, agent)
        agent.stdout.attach(ends.stdout, output_bytes, on_end)
        if ends.stderr >= 0:
            agent.stderr.attach(ends.stderr, output_bytes, on_end)

    def _check_capacity(self) -> None:
        if self.is_refusing:
            raise UnavailableError("the keeper is shutting down: it starts nothing more")
        holders = len(self._agents.holders)
        most = self.limits.descriptors_max
        if (holders + 1) * DESCRIPTORS > most - HEADROOM:
            raise ResourceExhaustedError(
                f"{holders} agents may need {DESCRIPTORS} descriptors each,"
                f" and the keeper may have {most} in all",
                hint="raise LimitNOFILE of the service that runs the keeper",
            )


def _limited(launch: Launch, planned: Plan) -> Launch:
    if planned.rlimits == launch.rlimits:
        return launch
    return launch._replace(rlimits=planned.rlimits)


def _facts(agent: Agent) -> dict[str, Any]:
    return {
        "pid": agent.pid,
        "start_time": agent.start_time,
        "started_at": agent.started_at,
        "limits_enforced": agent.limits_enforced,
    }


def _read(request: fields.Fields, user: User | None, tmp: str | None) -> Wanted:
    stop = fields.mapping(request, "stop")
    stdin = fields.choice(request, "stdin", STDINS)
    has_tty = request.get("tty") is not None
    env_file = _absolute(request, "env_file") if request.get("env_file") else None
    env, env_over = _variables(request, tmp, has_file=env_file is not None)
    return Wanted(
        agent_id=fields.agent_id(request),
        name=fields.text(request, "name"),
        attempt=fields.number(request, "attempt", least=1),
        launch=Launch(
            argv=fields.texts(request, "argv", least=1),
            cwd=_absolute(request, "cwd"),
            env=env,
            path=fields.texts(request, "path"),
            has_stdin=stdin == "pipe",
            rlimits=_rlimits(request) if "rlimits" in request else {},
            user=user,
            tty=fields.size(fields.mapping(request, "tty")) if has_tty else None,
            tmp=tmp,
            env_file=env_file,
            env_over=env_over,
            stdin_data=fields.data(request, "stdin_data") if "stdin_data" in request else None,
            cwd_within=fields.texts(request, "cwd_within", least=1)
            if "cwd_within" in request
            else [],
        ),
        output_bytes=fields.number(request, "output_bytes"),
        stop_signal=fields.signum(stop) if stop else signal.SIGTERM,
        stop_grace_s=fields.seconds(stop, "grace_s") if stop else GRACE_S,
        on_exit=fields.choice(request, "on_exit", ON_EXITS) if "on_exit" in request else "kill",
        bounds=read_bounds(request),
    )


def _variables(
    request: fields.Fields, tmp: str | None, *, has_file: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """What goes before the variables of a file and what goes after them; without one in one."""
    before = fields.environment(request, "env")
    if tmp is not None:
        before = {**before, "TMPDIR": tmp}
    if "env_over" not in request:
        return before, {}
    after = fields.environment(request, "env_over")
    return (before, after) if has_file else ({**before, **after}, {})


def _absolute(request: fields.Fields, key: str) -> str:
    path = fields.text(request, key)
    if not path.startswith("/"):
        raise InvalidArgumentError(f"{key}: expected an absolute path, got '{path:.80}'")
    return path


def _rlimits(request: fields.Fields) -> dict[str, int]:
    asked = fields.mapping(request, "rlimits")
    return {name: fields.number(asked, name) for name in asked}


def _check_next(agent: Agent, attempt: int) -> None:
    if attempt < agent.attempt:
        raise ConflictError(
            f"agent '{agent.agent_id}' is at attempt {agent.attempt}: attempt {attempt} is over"
        )
    if agent.runs:
        raise ConflictError(
            f"attempt {agent.attempt} of agent '{agent.agent_id}' is {agent.state}:"
            f" attempt {attempt} needs it exited"
        )


def _end_output(agent: Agent) -> None:
    for stream in agent.streams:
        stream.end()
        if stream.is_open:
            raise ResourceExhaustedError(
                f"the output of attempt {agent.attempt} is not written yet: {stream.error}",
                hint="make room on the disk",
            )


def _go_on_with_output(agent: Agent) -> None:
    try:
        for stream in agent.streams:
            stream.go_on()
    except OSError as exc:
        raise explain_output(exc) from exc
