"""Messages that speak to agents: pause, go on with what, what is said, what may be done."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from descartesd.wire.agent import AgentId, Argument, EnvName, Task


class AgentPause(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pause: `freeze` stops every process of the agent, `cooperative` asks its backend."""

    id: AgentId
    mode: Literal["freeze", "cooperative"] = "freeze"


class AgentRespawn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start an ended agent again; with `resume` it goes on with the conversation it told of.

    `task` is then what it is to do, and takes the place of its spec's. Secrets need not be given
    again while the server has them.
    """

    id: AgentId
    resume: bool = False
    task: Task | None = None
    secrets: Annotated[dict[EnvName, Argument], Meta(max_length=256)] = {}

    def __repr__(self) -> str:
        return f"AgentRespawn({self.id!r}, {sorted(self.secrets)})"


class AgentSay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said to an agent that was started as a chat."""

    id: AgentId
    text: Task

    def __repr__(self) -> str:
        return f"AgentSay({self.id!r}, {len(self.text)} characters)"


class AgentAnswer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to the question an agent waits with; `message` says why not.

    `question` is the id of the question that is meant; without it the oldest one is answered,
    whatever it has become since it was looked at.
    """

    id: AgentId
    decision: Literal["allow", "deny"]
    message: Annotated[str, Meta(max_length=4096)] | None = None
    question: Annotated[str, Meta(min_length=1, max_length=256)] | None = None

    def __repr__(self) -> str:
        return f"AgentAnswer({self.id!r}, {self.decision!r})"
