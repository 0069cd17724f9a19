"""Bytes for an agent's stdin, cut into requests that may be sent twice."""

from __future__ import annotations

import os

from descartesd.errors import WouldBlockError
from descartesd.wire.agent import AgentWrite, Written

CHUNK_BYTES = 64 * 1024
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0


class StdinWrite:
    """One write of any length.

    It is a writer of its own: offsets kept beyond it could belong to another agent of the same
    name, or to bytes nobody knows whether they arrived.
    """

    def __init__(self, agent_id: str, data: bytes) -> None:
        self._agent_id = agent_id
        self._data = memoryview(data)
        self._writer = os.urandom(16).hex()
        self._at = 0
        self._pause_s = _FIRST_PAUSE_S

    @property
    def is_done(self) -> bool:
        """Whether the agent's stdin has taken everything."""
        return self._at >= len(self._data)

    def request(self) -> AgentWrite:
        """The next chunk."""
        chunk = self._data[self._at : self._at + CHUNK_BYTES]
        return AgentWrite(
            id=self._agent_id, data=bytes(chunk), writer=self._writer, offset=self._at
        )

    def note(self, written: Written) -> float:
        """The chunk, or a part of it, was taken; the seconds to pause before the next request."""
        before = self._at
        self._at = before + written.accepted if written.offset is None else written.offset
        if self._at > before:
            self._pause_s = _FIRST_PAUSE_S
        is_whole = self._at - before >= CHUNK_BYTES or self.is_done
        return 0.0 if is_whole else self.pause_s()

    def pause_s(self) -> float:
        """The agent does not read: how long to wait, longer each time."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s

    def outcome(self) -> Written:
        """How much was taken."""
        return Written(accepted=self._at, offset=self._at)

    def would_block(self) -> WouldBlockError:
        """The deadline comes before the agent reads."""
        return WouldBlockError(
            f"agent '{self._agent_id}' does not read its stdin: it took {self._at} of "
            f"{len(self._data)} bytes",
            details={"accepted": self._at},
        )
