"""The operations on one running agent: signal, pause, resume, stop, kill, fence, its input."""

from __future__ import annotations

from typing import Any

from descartesd.errors import ConflictError, InvalidArgumentError
from descartesd.keeper import fields
from descartesd.keeper.agent import Agents
from descartesd.keeper.control import Control
from descartesd.keeper.server import Operation, Request
from descartesd.keeper.stdin import deliver


class Verbs:
    """Reads the request, finds the agent, hands over to `Control` or to its stdin."""

    def __init__(self, agents: Agents, control: Control) -> None:
        self._agents = agents
        self._control = control

    def operations(self) -> dict[str, Operation]:
        """The operations by name."""
        return {
            "signal": self.signal,
            "pause": self.pause,
            "resume": self.resume,
            "stop": self.stop,
            "kill": self.kill,
            "fence": self.fence,
            "write": self.write,
            "close_stdin": self.close_stdin,
            "resize": self.resize,
        }

    def signal(self, request: Request) -> None:
        """`{agent_id, signal}`: exactly this signal to the whole tree."""
        signum = fields.signum(request.fields)
        agent = self._agents.get_running(fields.agent_id(request.fields), "signal")
        self._control.signal(agent, signum, request)

    def pause(self, request: Request) -> None:
        """`{agent_id}`: answered when nothing of the tree runs."""
        agent = self._agents.get_running(fields.agent_id(request.fields), "pause")
        self._control.pause(agent, request)

    def resume(self, request: Request) -> None:
        """`{agent_id}`: answered when the whole tree has been continued."""
        agent = self._agents.get_running(fields.agent_id(request.fields), "resume")
        self._control.resume(agent, request)

    def stop(self, request: Request) -> dict[str, Any]:
        """`{agent_id, signal?, grace_s?}`: answered at once; the defaults are the agent's own."""
        agent = self._agents.get(fields.agent_id(request.fields))
        signum, grace_s = agent.stop_signal, agent.stop_grace_s
        if "signal" in request.fields:
            signum = fields.signum(request.fields)
        if "grace_s" in request.fields:
            grace_s = fields.seconds(request.fields, "grace_s")
        if agent.runs:
            self._control.stop(agent, signum, grace_s)
        return {}

    def kill(self, request: Request) -> dict[str, Any]:
        """`{agent_id}`: answered at once."""
        agent = self._agents.get(fields.agent_id(request.fields))
        if agent.runs:
            self._control.kill(agent, ended_by="kill")
        return {}

    def fence(self, request: Request) -> dict[str, Any]:
        """`{agent_id, deadline}`: seconds of CLOCK_BOOTTIME to be killed at, null for never."""
        deadline = None
        if request.fields.get("deadline") is not None:
            deadline = fields.seconds(request.fields, "deadline")
        elif "deadline" not in request.fields:
            raise InvalidArgumentError("deadline: expected seconds of CLOCK_BOOTTIME or null")
        agent = self._agents.get(fields.agent_id(request.fields))
        if agent.runs:
            self._control.fence(agent, deadline)
        return {}

    def write(self, request: Request) -> dict[str, Any]:
        """`{agent_id, data, writer?, offset?, whole?}` -> `{accepted, offset}`."""
        data = fields.data(request.fields, "data")
        writer, offset = None, 0
        if request.fields.get("writer") is not None:
            writer = fields.text(request.fields, "writer")
            offset = fields.number(request.fields, "offset")
        elif request.fields.get("offset") is not None:
            raise InvalidArgumentError("offset: counts the bytes of a writer, and none is named")
        agent = self._agents.get_running(fields.agent_id(request.fields), "write")
        accepted, reached = deliver(
            agent.stdin,
            agent.writers,
            data,
            writer=writer,
            offset=offset,
            is_whole=fields.flag(request.fields, "whole"),
        )
        return {"accepted": accepted, "offset": reached}

    def close_stdin(self, request: Request) -> dict[str, Any]:
        """`{agent_id}`: closed when what was taken is delivered; end of file on a terminal."""
        agent = self._agents.get(fields.agent_id(request.fields))
        if agent.stdin is not None:
            agent.stdin.end()
        return {}

    def resize(self, request: Request) -> dict[str, Any]:
        """`{agent_id, rows, cols}`: the size of its terminal from now on."""
        size = fields.size(request.fields)
        agent = self._agents.get_running(fields.agent_id(request.fields), "resize")
        if agent.terminal is None:
            raise ConflictError(
                f"agent '{agent.agent_id}' has no terminal",
                hint="spawn the agent with --tty",
            )
        agent.terminal.resize(size)
        return {}
