"""Messages of those who are attached to an agent's terminal."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from descartesd.wire.agent import AgentId, OutputChunk, TerminalSize, Writer


class AttachOffsets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to go on in each stream; where none is given, the last screenful comes first."""

    stdout: Annotated[int, Meta(ge=0)] | None = None
    stderr: Annotated[int, Meta(ge=0)] | None = None


class AgentAttach(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stream output from the last screenful on until the agent's output ends.

    With `writer`, a random token of this client's own, it also holds the agent's pen until the
    stream ends. There is one pen: while somebody else has it the answer is `conflict`, unless
    `steal`; then the other's stream ends with `conflict`. The same `writer` takes its own pen over,
    as after a lost connection. The pen binds only those who attach, not `agent.write`.
    """

    id: AgentId
    writer: Writer | None = None
    steal: bool = False
    offsets: AttachOffsets = AttachOffsets()


class AttachChunk(OutputChunk, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk of output; the first of each stream comes at once, even without data.

    `modes` is for a terminal: control sequences that put it in the modes (alternate screen, cursor
    keys, mouse, …) which the output before `offset` had set.
    """

    modes: bytes | None = None


class AgentResize(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of the agent's terminal from now on."""

    id: AgentId
    rows: TerminalSize
    cols: TerminalSize
