"""One agent as the daemon keeps it: in memory, and as a row of the registry."""

from __future__ import annotations

import signal as signals
from typing import Literal

import msgspec

from descartesd.agents.backend import Resume
from descartesd.agents.bounds import Bounds
from descartesd.agents.dialects.report import Report
from descartesd.agents.lifecycle import ALIVE, ENDED, WAITING
from descartesd.keeper.protocol import Status
from descartesd.wire.agent import (
    AgentInfo,
    AgentSpec,
    Outcome,
    OutputTotals,
    Reason,
    State,
    StreamTotals,
    Usage,
)
from descartesd.wire.masking import shown

_SILENT = Report()
# Limits that need nothing of the kernel.
_COUNTED_HERE = ("output_bytes", "tokens", "cost_usd")


class Agent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything known of one agent. `start_time` is /proc's, in ticks; times are epoch seconds.

    A row leaves out what has its default: rows of before mean another where a default changes.
    """

    id: str
    name: str
    owner: str
    spec: AgentSpec
    created_at: float
    # Of a spec that a role of the server's own bounds; None where none does.
    bounds: Bounds | None = None
    state: State = "starting"
    # Bytes kept of each stream; 0 in records that do not say.
    output_bytes: int = 0
    attempt: int = 1
    pid: int | None = None
    start_time: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    paused_at: float | None = None
    pause_mode: Literal["cgroup", "tree", "cooperative"] | None = None
    # As the keeper tells of those it enforces.
    limits_enforced: dict[str, bool] = {}
    # As last sampled while it runs.
    usage: Usage | None = None
    outcome: Outcome | None = None
    eof: bool = False
    output: OutputTotals = OutputTotals()
    # Why output waits in the keeper, as last sampled.
    output_error: str | None = None
    # The conversation its present attempt, and those that follow by themselves, go on with.
    resume: Resume | None = None
    # Its turn in the queue; 0 when it never waited there.
    turn: int = 0
    next_start_at: float | None = None
    # The last attempt the keeper was to be asked for while the record said that it waits.
    asked_attempt: int = 0
    # Restarts since it was spawned or respawned, and those without a long attempt in between.
    restarts: int = 0
    restarts_in_a_row: int = 0
    # A person has asked for its end: no policy starts it again. The reason is that of an end
    # before its next start.
    halted: bool = False
    halt_reason: Reason = "stopped"
    # How its stdout is read as events, and what they have said; None when it is not.
    dialect: str | None = None
    report: Report | None = None
    title: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether its present attempt has ended."""
        return self.state in ENDED or (self.state == "backoff" and self.ended_at is not None)

    @property
    def is_in_doubt(self) -> bool:
        """Whether it waits by its record, and the keeper may have started it all the same."""
        is_asked = self.asked_attempt == self.attempt
        return self.state in WAITING and not self.is_over and is_asked

    @property
    def is_complete(self) -> bool:
        """Whether its output has ended; more comes when it waits for a restart."""
        return self.eof and self.state != "backoff"

    def begin_attempt(self) -> None:
        """Forget what belongs to the attempt before."""
        self.attempt += 1
        self.title = None
        self.pid = self.start_time = self.started_at = self.ended_at = self.outcome = None
        self.eof = False

    def info(self, server_id: str, queue_position: int | None = None) -> AgentInfo:
        """Tell what clients are told."""
        said = self.report or _SILENT
        return AgentInfo(
            id=self.id,
            name=self.name,
            owner=self.owner,
            server_id=server_id,
            state=self.state,
            spec=shown(self.spec),
            created_at=self.created_at,
            attempt=self.attempt,
            pid=self.pid if self.state in ALIVE else None,
            started_at=self.started_at,
            ended_at=self.ended_at,
            next_start_at=self.next_start_at,
            paused_at=self.paused_at,
            pause_mode=self.pause_mode,
            outcome=self.outcome,
            labels=self.spec.labels,
            limits_enforced=self._limits_enforced(),
            usage=self.usage if self.state in ALIVE else None,
            output=self.output,
            output_error=None if self.eof else self.output_error,
            restarts=self.restarts,
            queue_position=queue_position,
            activity=said.activity if self.state in ALIVE else "unknown",
            progress=said.progress,
            session_id=said.session_id,
            tokens=said.tokens,
            cost_usd=said.cost_usd,
            question=said.questions[0].shown() if said.questions else None,
            event_lines=said.lines(),
            title=self.title,
        )

    def _limits_enforced(self) -> dict[str, bool]:
        limits = self.spec.limits
        if limits.output_bytes is None and limits.tokens is None and limits.cost_usd is None:
            return self.limits_enforced
        counted = [name for name in _COUNTED_HERE if getattr(limits, name) is not None]
        return {**self.limits_enforced, **dict.fromkeys(counted, True)}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Agent).decode


def to_row(agent: Agent) -> bytes:
    """Encode for the registry."""
    return _encode(agent)


def from_row(row: bytes) -> Agent:
    """Decode from the registry; raises msgspec.DecodeError when it is damaged."""
    return _decode(row)


_ENDED_BY: dict[str, Reason] = {
    "stop": "stopped",
    "kill": "killed",
    "fence": "fenced",
    "run_time": "run_time_limit",
}


def ending(status: Status, *, stopping: bool, no_result: bool = False) -> tuple[State, Outcome]:
    """Tell from the keeper's facts how an agent ended.

    `stopping`: a person asked for it. `no_result`: a final success was due and has not been told.
    """
    exit_code, signal = status["exit_code"], status["signal"]
    ended_by = status["ended_by"]
    state: State
    reason: Reason
    if ended_by is not None:
        state, reason = "terminated", _ENDED_BY[ended_by]
    elif stopping:
        state, reason = "terminated", "stopped"
    elif signal is not None:
        is_out_of_memory = signal == signals.SIGKILL and status.get("out_of_memory", False)
        state, reason = "failed", "out_of_memory" if is_out_of_memory else "signal"
    elif exit_code == 0 and no_result:
        state, reason = "failed", "no_result"
    else:
        state, reason = ("completed" if exit_code == 0 else "failed"), "exit"
    return state, Outcome(
        reason=reason, exit_code=exit_code, signal=signal, leftovers=status["leftovers"]
    )


def totals(status: Status, known: OutputTotals) -> OutputTotals:
    """Take over the keeper's byte counts."""
    counted = status["totals"]
    return OutputTotals(
        stdout=StreamTotals(
            total=counted["stdout"], truncated_before=known.stdout.truncated_before
        ),
        stderr=StreamTotals(
            total=counted["stderr"], truncated_before=known.stderr.truncated_before
        ),
    )
