"""What the keeper knows of an agent, and the table of all of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final

from descartesd.errors import ConflictError, NotFoundError
from descartesd.keeper.cgroup import Group
from descartesd.keeper.loop import Task, Timer
from descartesd.keeper.output import Pump, Stream
from descartesd.keeper.protocol import Status
from descartesd.keeper.stdin import Stdin, Writers
from descartesd.keeper.terminal import Terminal

# Descriptors a running agent may come to hold: two pipes, two files, two indexes, a pidfd, stdin.
# With a terminal both its sides, one of them twice, a file, an index, a pidfd.
DESCRIPTORS: Final = 8


class Agent:
    """One agent: its present or last attempt, its streams over all of them."""

    __slots__ = (
        "agent_id", "attempt", "count_timer", "cpu_seconds", "ended_at", "ended_by",
        "eof_timer", "exit_code", "fence_at", "fence_timer", "group", "is_killed",
        "is_out_of_memory", "is_swept", "keeps_rest", "kill_timer", "leftovers",
        "limits_enforced", "met", "name", "on_swept", "paused_at", "pid", "pidfd", "run_s",
        "run_timer", "signal", "signalled", "start_time", "started_at", "state", "stderr", "stdin",
        "stdout", "stop_grace_s", "stop_signal", "task", "terminal", "tmp", "writers",
    )  # fmt: skip

    def __init__(self, pump: Pump, agent_id: str) -> None:
        self.agent_id = agent_id
        self.name = ""
        self.attempt = 0
        self.stdout = Stream(pump, agent_id, "stdout")
        self.stderr = Stream(pump, agent_id, "stderr")
        self.writers = Writers()
        self.stop_signal: int = signal.SIGTERM
        self.stop_grace_s = 0.0
        # Whether what is left after an end of its own accord is left alone.
        self.keeps_rest = False
        self.task: Task | None = None
        self.fence_timer: Timer | None = None
        self.run_timer: Timer | None = None
        # Runs while it is stopping and not being killed yet.
        self.kill_timer: Timer | None = None
        self.eof_timer: Timer | None = None
        # Runs while its end waits to be told until all it has left is counted.
        self.count_timer: Timer | None = None
        self.forget_attempt()

    def forget_attempt(self) -> None:
        """Return to what holds before an attempt has started."""
        self.state = "exited"
        self.pid = 0
        self.pidfd = -1
        # When the leader was started, in ticks.
        self.start_time = 0
        self.started_at = 0.0
        self.paused_at: float | None = None
        self.ended_at: float | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.ended_by: str | None = None
        self.leftovers = 0
        self.group: Group | None = None
        # Its directory for temporary files.
        self.tmp: str | None = None
        # After how many seconds it is stopped.
        self.run_s: float | None = None
        self.limits_enforced: dict[str, bool] = {}
        self.is_out_of_memory = False
        # The most it was ever seen to have used: what is gone cannot be added up any more.
        self.cpu_seconds = 0.0
        self.stdin: Stdin | None = None
        self.terminal: Terminal | None = None
        self.fence_at: float | None = None
        # While a stop is under way, whom it has reached, as (pid, start_time).
        self.signalled: set[tuple[int, int]] | None = None
        self.is_killed = False
        # While what it has left is ended, whom of that was counted, as (pid, start_time).
        self.met: set[tuple[int, int]] = set()
        self.is_swept = True
        # Called when what it has left is ended and counted.
        self.on_swept: Callable[[], None] | None = None

    def begin(self, attempt: int, pid: int, pidfd: int, start_time: int) -> None:
        """Note that the leader of a new attempt runs."""
        if self.attempt:
            self.forget_attempt()
        self.attempt = attempt
        self.state = "running"
        self.pid = pid
        self.pidfd = pidfd
        self.start_time = start_time
        self.started_at = time.time()
        self.is_swept = False

    def finish(self, *, exit_code: int | None, signum: int | None) -> None:
        """Note how the leader ended; its status has been reaped.

        Its state is told to be what it was until `close`.
        """
        self.ended_at = time.time()
        self.exit_code = exit_code
        self.signal = signum
        os.close(self.pidfd)
        self.pidfd = -1

    def close(self) -> None:
        """Note that the end is whole: what the leader has left is counted too."""
        self.state = "exited"
        self.paused_at = None

    def close_input(self) -> None:
        """Write nothing more, and leave the terminal to whoever still has it open."""
        if self.stdin is not None:
            self.stdin.close()
        if self.terminal is not None:
            self.terminal.close()
            self.terminal = None

    @property
    def pause_mode(self) -> str:
        """How the agent is paused, if it is."""
        return "tree" if self.group is None else "cgroup"

    @property
    def runs(self) -> bool:
        """Whether the leader has not been reaped."""
        return self.pidfd >= 0

    @property
    def streams(self) -> tuple[Stream, Stream]:
        """stdout and stderr."""
        return self.stdout, self.stderr

    @property
    def eof(self) -> bool:
        """Whether it has exited and no output of it can come any more."""
        return self.state == "exited" and not (self.stdout.is_open or self.stderr.is_open)

    @property
    def output_error(self) -> str | None:
        """Why output waits here, if it does."""
        return self.stdout.error or self.stderr.error

    def status(self) -> Status:
        """The facts the daemon is told."""
        return {
            "agent_id": self.agent_id,
            "name": self.name,
            "attempt": self.attempt,
            "pid": self.pid,
            "start_time": self.start_time,
            "started_at": self.started_at,
            "state": self.state,
            "paused_at": self.paused_at,
            "ended_at": self.ended_at,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "ended_by": self.ended_by,
            "leftovers": self.leftovers,
            "pause_mode": self.pause_mode,
            "limits_enforced": self.limits_enforced,
            "out_of_memory": self.is_out_of_memory,
            "eof": self.eof,
            "stdin_open": self.stdin is not None and self.stdin.is_open,
            "totals": {"stdout": self.stdout.total, "stderr": self.stderr.total},
            "output_error": self.output_error,
        }


class Agents:
    """Every agent not forgotten, by id, and the leaders among the processes, by pid."""

    def __init__(self) -> None:
        self._by_id: dict[str, Agent] = {}
        # Leaders not reaped yet, so that no other process can have their pid.
        self.running: dict[int, Agent] = {}
        # These, and the reaped ones whose tree is still being ended.
        self.leaders: dict[int, Agent] = {}
        # Those whose leader runs or whose output has not ended: they hold descriptors.
        self.holders: set[Agent] = set()
        # Children of the keeper that are no agent's: they are waited for by who started them.
        self.helpers: set[int] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Agent]:
        return iter(list(self._by_id.values()))

    def add(self, agent: Agent) -> None:
        """Know an agent whose leader has just been started."""
        self._by_id[agent.agent_id] = agent
        self.running[agent.pid] = agent
        self.leaders[agent.pid] = agent
        self.holders.add(agent)

    def restore(self, agent: Agent, *, is_known: bool, leads: bool, holds: bool) -> None:
        """Know an agent as another program of this process has known it."""
        if is_known:
            self._by_id[agent.agent_id] = agent
        if agent.runs:
            self.running[agent.pid] = agent
        if leads:
            self.leaders[agent.pid] = agent
        if holds:
            self.holders.add(agent)

    def drop(self, agent: Agent) -> None:
        """Forget an agent."""
        self._by_id.pop(agent.agent_id, None)
        self.holders.discard(agent)

    def find(self, agent_id: str) -> Agent | None:
        """The agent of this id, if it is known."""
        return self._by_id.get(agent_id)

    def get(self, agent_id: str) -> Agent:
        """The agent of this id.

        Raises NotFoundError.
        """
        agent = self._by_id.get(agent_id)
        if agent is None:
            raise NotFoundError(f"no agent '{agent_id}': it was never started or is forgotten")
        return agent

    def get_running(self, agent_id: str, verb: str) -> Agent:
        """The agent of this id, whose leader runs.

        Raises NotFoundError, ConflictError.
        """
        agent = self.get(agent_id)
        if not agent.runs:
            raise ConflictError(f"agent '{agent_id}' has exited: {verb} needs a running one")
        return agent

    def page(self, after: str, limit: int) -> list[Agent]:
        """Up to `limit` agents with ids greater than `after`, in the order of their ids."""
        return [
            self._by_id[key] for key in sorted(key for key in self._by_id if key > after)[:limit]
        ]
