"""One agent as the daemon keeps it: in memory, and as a row of the registry."""

from __future__ import annotations

from typing import Literal

import msgspec

from descartesd.agents.lifecycle import ALIVE
from descartesd.keeper.protocol import Status
from descartesd.wire.agent import (
    AgentInfo,
    AgentSpec,
    Outcome,
    OutputTotals,
    Reason,
    State,
    StreamTotals,
)


class Agent(msgspec.Struct, kw_only=True):
    """Everything known of one agent. `start_time` is /proc's, in ticks; times are epoch seconds."""

    id: str
    name: str
    owner: str
    spec: AgentSpec
    created_at: float
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
    outcome: Outcome | None = None
    eof: bool = False
    output: OutputTotals = OutputTotals()

    def info(self, server_id: str) -> AgentInfo:
        """Tell what clients are told."""
        return AgentInfo(
            id=self.id,
            name=self.name,
            owner=self.owner,
            server_id=server_id,
            state=self.state,
            spec=self.spec,
            created_at=self.created_at,
            attempt=self.attempt,
            pid=self.pid if self.state in ALIVE else None,
            started_at=self.started_at,
            ended_at=self.ended_at,
            paused_at=self.paused_at,
            pause_mode=self.pause_mode,
            outcome=self.outcome,
            labels=self.spec.labels,
            output=self.output,
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Agent).decode


def to_row(agent: Agent) -> bytes:
    """Encode for the registry."""
    return _encode(agent)


def from_row(row: bytes) -> Agent:
    """Decode from the registry; raises msgspec.DecodeError when it is damaged."""
    return _decode(row)


_ENDED_BY: dict[str, Reason] = {"stop": "stopped", "kill": "killed", "fence": "fenced"}


def ending(status: Status, *, stopping: bool) -> tuple[State, Outcome]:
    """Tell from the keeper's facts how an agent ended; `stopping`: a person asked for it."""
    exit_code, signal = status["exit_code"], status["signal"]
    ended_by = status["ended_by"]
    state: State
    reason: Reason
    if ended_by is not None:
        state, reason = "terminated", _ENDED_BY[ended_by]
    elif stopping:
        state, reason = "terminated", "stopped"
    elif signal is not None:
        state, reason = "failed", "signal"
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
