"""What is told of an agent: its record, and the size of its output as last sampled."""

from __future__ import annotations

from msgspec import Raw

from descartesd.agents.output import OutputFiles
from descartesd.agents.queue import Queue
from descartesd.agents.record import Agent
from descartesd.wire.agent import AgentInfo, OutputTotals
from descartesd.wire.codec import encode


class Views:
    """Makes what clients are told, and keeps its bytes while nothing changes."""

    def __init__(self, output: OutputFiles, queue: Queue, server_id: str) -> None:
        self._output = output
        self._queue = queue
        self._server_id = server_id
        self._encoded: dict[str, Raw] = {}

    def info(self, agent: Agent) -> AgentInfo:
        """Tell everything."""
        return agent.info(self._server_id, self._queue.position(agent.id))

    def encoded(self, agent: Agent) -> Raw:
        """As `info`, encoded."""
        if agent.id in self._queue:
            # Its position changes with every turn that is given.
            return Raw(encode(self.info(agent)))
        known = self._encoded.get(agent.id)
        if known is None:
            known = self._encoded[agent.id] = Raw(encode(self.info(agent)))
        return known

    def changed(self, agent: Agent) -> None:
        """Forget what was told: it holds no longer."""
        self._encoded.pop(agent.id, None)

    def totals(self, agent: Agent) -> OutputTotals:
        """How much the agent has written; as known, where the files cannot be looked at."""
        try:
            return OutputTotals(
                stdout=self._output.totals(agent.id, "stdout", kept=agent.output_bytes),
                stderr=self._output.totals(agent.id, "stderr", kept=agent.output_bytes),
            )
        except OSError:
            # Without a free descriptor: what is known of an agent's end must not wait for one.
            return agent.output
