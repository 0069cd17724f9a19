"""Pause, resume, signal, stop, kill, fence: what is done to the whole tree of an agent.

Each is a task in steps of at most STEP processes, so that no tree, however large or however fast
it forks, holds up the loop. The caller has found the agent; its leader runs.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Mapping
from typing import Final

from descartesd.errors import ConflictError, DeadlineExceededError, DescartesError
from descartesd.keeper import tmpdir
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.cgroup import Group, remove_when_empty
from descartesd.keeper.loop import Loop, Steps, boottime
from descartesd.keeper.reach import DELAY_MIN_S, STEP, Reach
from descartesd.keeper.server import Request
from descartesd.keeper.tree import Tree

PAUSE_LIMIT_S: Final = 5.0
KILL_FREEZE_S: Final = 0.25
SWEEP_DELAY_MAX_S: Final = 1.0
UNCLEAR_LOOK_S: Final = 0.005
UNCLEAR_LIMIT_S: Final = 0.5


class Control:
    """Carries out the verbs; at most one task an agent, signals apart."""

    def __init__(self, loop: Loop, agents: Agents, tree: Tree) -> None:
        self._loop = loop
        self._agents = agents
        self._tree = tree
        self._reach = Reach(tree)
        # Requests for a pause or a resume that is under way, by agent id.
        self._waiting: dict[str, list[Request]] = {}

    def pause(self, agent: Agent, request: Request) -> None:
        """Answer when nothing of the tree runs any more, or undo it after PAUSE_LIMIT_S.

        Raises ConflictError for an agent that is stopping.
        """
        self._refuse_stopping(agent, "pause")
        if agent.state == "paused" and agent.agent_id not in self._waiting:
            request.reply({"mode": agent.pause_mode})
        elif agent.state == "running" and agent.agent_id in self._waiting:
            self._waiting[agent.agent_id].append(request)
        else:
            self._drop(agent, "was paused meanwhile")
            self._begin(agent, self._pausing(agent), request)

    def resume(self, agent: Agent, request: Request) -> None:
        """Answer when the whole tree has been continued.

        Raises ConflictError for an agent that is stopping.
        """
        self._refuse_stopping(agent, "resume")
        if agent.state == "running" and agent.agent_id not in self._waiting:
            request.reply({})
            return
        self._drop(agent, "was resumed meanwhile")
        self._begin(agent, self._resuming(agent), request)

    def signal(self, agent: Agent, signum: int, request: Request) -> None:
        """Send exactly this signal to the whole tree; answers `{count}`, how many it reached."""
        self._loop.start(self._signalling(agent, signum, request))

    def stop(self, agent: Agent, signum: int, grace_s: float, *, ended_by: str = "stop") -> None:
        """Ask the tree to end and kill it after `grace_s`.

        One that is stopping is asked again, and killed then if that is sooner.
        """
        if agent.state == "stopping":
            if agent.kill_timer is not None:
                self._loop.start(self._stopping(agent, signum, thaw=False))
                self._kill_later(agent, grace_s)
            return
        was_frozen = agent.state == "paused" or agent.agent_id in self._waiting
        self._drop(agent, "was stopped meanwhile")
        self._note_end(agent, ended_by)
        self._kill_later(agent, grace_s)
        agent.task = self._loop.start(self._stopping(agent, signum, thaw=was_frozen))

    def kill(self, agent: Agent, *, ended_by: str) -> None:
        """End the tree now."""
        self._drop(agent, "was killed meanwhile")
        self._note_end(agent, ended_by)
        self._kill(agent)

    def fence(self, agent: Agent, deadline: float | None) -> None:
        """Kill the agent at `deadline` (a `boottime()`) unless it is fenced anew before."""
        agent.fence_at = deadline
        if deadline is None:
            return
        timer = agent.fence_timer
        if timer is None or deadline < timer.when:
            if timer is not None:
                timer.cancel()
            agent.fence_timer = self._loop.call_at(deadline, lambda: self._check_fence(agent))

    def limit_run(self, agent: Agent, run_s: float) -> None:
        """Stop an agent that has just been started when its time is over."""
        agent.run_timer = self._loop.call_later(run_s, lambda: self._end_run(agent))

    def sweep(self, agent: Agent) -> None:
        """Kill what the dead leader has left and count it; to be called before it is reaped.

        Of an agent that keeps it and has ended by itself it is counted and let go.
        """
        self._drop(agent, "has exited")
        for timer in (agent.run_timer, agent.kill_timer):
            if timer is not None:
                timer.cancel()
        agent.kill_timer = None
        if agent.keeps_rest and agent.ended_by is None:
            agent.task = self._loop.start(self._releasing(agent))
        elif agent.group is not None or self._tree.may_have_left(agent):
            agent.task = self._loop.start(self._sweeping(agent), is_resumable=True)
        else:
            # As most agents end.
            self._end_sweep(agent)

    def go_on(self, agent: Agent, timers: Mapping[str, float | None]) -> None:
        """Take up what another program of this process has begun with an agent.

        `timers` has when it is stopped for its time being over, and when it is killed.
        """
        if timers["run_at"] is not None:
            agent.run_timer = self._loop.call_at(timers["run_at"], lambda: self._end_run(agent))
        if timers["kill_at"] is not None:
            agent.kill_timer = self._loop.call_at(timers["kill_at"], lambda: self._kill(agent))
        if agent.runs:
            self.fence(agent, agent.fence_at)
            if agent.is_killed:
                self._kill(agent)
        elif not agent.is_swept:
            self.sweep(agent)

    def _refuse_stopping(self, agent: Agent, verb: str) -> None:
        if agent.state == "stopping":
            raise ConflictError(
                f"agent '{agent.agent_id}' is stopping: {verb} needs a running or paused one"
            )

    def _note_end(self, agent: Agent, ended_by: str) -> None:
        agent.state = "stopping"
        agent.paused_at = None
        agent.ended_by = ended_by
        agent.signalled = agent.signalled or set()

    def _check_fence(self, agent: Agent) -> None:
        agent.fence_timer = None
        if agent.fence_at is None or not agent.runs:
            return
        if boottime() < agent.fence_at:
            self.fence(agent, agent.fence_at)
        else:
            self.kill(agent, ended_by="fence")

    def _end_run(self, agent: Agent) -> None:
        agent.run_timer = None
        self.stop(agent, agent.stop_signal, agent.stop_grace_s, ended_by="run_time")

    def _kill_later(self, agent: Agent, delay_s: float) -> None:
        """Kill a stopping agent after `delay_s`, unless that is to happen sooner already."""
        when = boottime() + delay_s
        if agent.kill_timer is not None:
            if agent.kill_timer.when <= when:
                return
            agent.kill_timer.cancel()
        agent.kill_timer = self._loop.call_at(when, lambda: self._kill(agent))

    def _kill(self, agent: Agent) -> None:
        if agent.kill_timer is not None:
            agent.kill_timer.cancel()
            agent.kill_timer = None
        if agent.task is not None:
            agent.task.cancel()
        agent.task = self._loop.start(self._killing(agent), is_resumable=True)

    def _begin(self, agent: Agent, steps: Steps, request: Request) -> None:
        self._waiting[agent.agent_id] = [request]
        agent.task = self._loop.start(steps)

    def _drop(self, agent: Agent, why: str) -> None:
        if agent.task is not None:
            agent.task.cancel()
            agent.task = None
        if agent.agent_id in self._waiting:
            self._answer(agent, ConflictError(f"agent '{agent.agent_id}' {why}"))

    def _answer(self, agent: Agent, error: DescartesError | None = None) -> None:
        for request in self._waiting.pop(agent.agent_id, ()):
            if error is None:
                request.reply({"mode": agent.pause_mode} if agent.state == "paused" else {})
            else:
                request.fail(error)

    def _pausing(self, agent: Agent) -> Steps:
        restless = yield from self._reach.freeze(agent, PAUSE_LIMIT_S)
        if restless is None:
            agent.state = "paused"
            agent.paused_at = time.time()
            self._answer(agent)
            return
        yield from self._reach.thaw(agent)
        self._answer(
            agent,
            DeadlineExceededError(
                f"process {restless} of agent '{agent.agent_id}' still ran after"
                f" {PAUSE_LIMIT_S:g} s: the agent runs on",
                hint="a process of another user cannot be paused; stop or kill still work",
            ),
        )

    def _resuming(self, agent: Agent) -> Steps:
        agent.state = "running"
        agent.paused_at = None
        yield from self._reach.thaw(agent)
        self._answer(agent)

    def _signalling(self, agent: Agent, signum: int, request: Request) -> Steps:
        reached = yield from self._reach.send(agent, signum)
        if signum == signal.SIGCONT and agent.state == "paused":
            agent.state = "running"
            agent.paused_at = None
            if agent.group is not None:
                agent.group.thaw()
        request.reply({"count": reached})

    def _stopping(self, agent: Agent, signum: int, *, thaw: bool) -> Steps:
        yield from self._reach.send(agent, signum)
        if thaw:
            yield from self._reach.thaw(agent)

    def _killing(self, agent: Agent) -> Steps:
        delay_s = DELAY_MIN_S
        agent.is_killed = True
        while True:
            if agent.group is None or not agent.group.kill():
                # Frozen first: what runs while its parent is killed could fork out of reach.
                yield from self._reach.freeze_tree(agent, KILL_FREEZE_S)
                yield from self._reach.send(agent, signal.SIGKILL)
            yield delay_s
            delay_s = min(2 * delay_s, SWEEP_DELAY_MAX_S)

    def _sweeping(self, agent: Agent) -> Steps:
        if agent.group is not None:
            yield from self._empty(agent, agent.group)
        delay_s = 0.0
        deadline = boottime() + UNCLEAR_LIMIT_S
        while True:
            if (yield from self._sweep_once(agent)):
                yield delay_s
                delay_s = min(2 * delay_s + DELAY_MIN_S, SWEEP_DELAY_MAX_S)
                yield from self._reach.freeze_tree(agent, KILL_FREEZE_S)
            elif self._tree.has_unclear and boottime() < deadline:
                yield UNCLEAR_LOOK_S
            else:
                break
        self._end_sweep(agent)

    def _end_sweep(self, agent: Agent) -> None:
        if agent.tmp is not None:
            tmpdir.drop_if_empty(agent.tmp)
        self._note_swept(agent)

    def _releasing(self, agent: Agent) -> Steps:
        self._tree.release(agent.pid, agent.start_time)
        for count, process in enumerate(self._tree.left_by(agent), 1):
            agent.leftovers += not process.is_gone
            self._tree.release(process.pid, process.start_time)
            if count % STEP == 0:
                yield 0.0
        if agent.group is not None:
            agent.group.thaw()
            self._loop.start(remove_when_empty(agent.group), is_resumable=True)
        self._note_swept(agent)

    def _note_swept(self, agent: Agent) -> None:
        agent.task = None
        agent.is_swept = True
        agent.signalled = None
        agent.met.clear()
        if self._agents.leaders.get(agent.pid) is agent:
            del self._agents.leaders[agent.pid]
        if agent.on_swept is not None:
            agent.on_swept()

    def _empty(self, agent: Agent, group: Group) -> Steps:
        """Kill what is in the group, count it, and remove the group."""
        agent.is_out_of_memory |= group.oom_kills > 0
        for count, process in enumerate(self._tree.members(group), 1):
            key = (process.pid, process.start_time)
            if not (process.is_gone or process.pid == agent.pid or key in agent.met):
                agent.met.add(key)
                agent.leftovers += not (agent.is_killed or key in (agent.signalled or ()))
            if count % STEP == 0:
                yield 0.0
        delay_s = 0.0
        while not group.remove():
            group.kill()
            yield delay_s
            delay_s = min(2 * delay_s + DELAY_MIN_S, SWEEP_DELAY_MAX_S)

    def _sweep_once(self, agent: Agent) -> Generator[float, None, bool]:
        """Kill what there is; returns whether anything was alive, new or lost."""
        found = False
        met = agent.met
        misses = self._tree.misses
        for count, process in enumerate(self._tree.left_by(agent), 1):
            key = (process.pid, process.start_time)
            if not process.is_gone:
                found = True
                if key not in met:
                    agent.leftovers += not (agent.is_killed or key in (agent.signalled or ()))
                self._tree.signal(agent, process, signal.SIGKILL)
            elif key not in met:
                # A zombie too: before it died it may have forked out of this look's sight.
                found = True
            met.add(key)
            if count % STEP == 0:
                yield 0.0
        return found or misses != self._tree.misses
