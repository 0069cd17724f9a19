"""A keeper that says what a test tells it to, and the records and facts of its agents."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from descartesd.agents.record import Agent
from descartesd.keeper import protocol
from descartesd.wire.agent import AgentSpec, State


def record(number: int, state: State = "running", **fields: Any) -> Agent:
    started = (
        {} if state == "starting" else {"pid": 100 + number, "start_time": 7, "started_at": 2.0}
    )
    return Agent(
        id=f"{number:020d}",
        name=f"a{number}",
        owner="uid:0",
        spec=AgentSpec(command=["sleep", "1"]),
        created_at=1.0,
        state=state,
        **started,
        **fields,
    )


def status(of: Agent, state: str = "running", **fields: Any) -> protocol.Status:
    told: protocol.Status = {
        "agent_id": of.id,
        "name": of.name,
        "attempt": 1,
        "pid": of.pid or 100 + int(of.id),
        "start_time": 7,
        "started_at": 2.0,
        "state": state,
        "paused_at": 3.0 if state == "paused" else None,
        "ended_at": 4.0 if state == "exited" else None,
        "exit_code": 0 if state == "exited" else None,
        "signal": None,
        "ended_by": None,
        "leftovers": 0,
        "pause_mode": "tree",
        "limits_enforced": {},
        "out_of_memory": False,
        "eof": state == "exited",
        "stdin_open": False,
        "totals": {"stdout": 0, "stderr": 0},
        "output_error": None,
    }
    return told | fields  # type: ignore[return-value,operator]


_REPLIES: dict[str, dict[str, Any]] = {
    "hello": {
        "pid": 1,
        "version": protocol.VERSION,
        "boot_id": "boot",
        "started_at": 1.0,
        "features": ["usage"],
    },
    "recover": {"ended": 1},
    "spawn": {"pid": 999, "start_time": 9, "started_at": 9.0},
    "forget": {},
    "remove": {},
    "stop": {},
    "kill": {},
}


class ScriptedKeeper:
    """Answers its list by `pages`, calling `before_page` before each is sent.

    Of any other operation it is `before_reply` that is called, with the operation and the agent.
    """

    def __init__(self, path: str) -> None:
        self.pages: list[list[protocol.Status]] = [[]]
        self.before_page: Callable[[int], None] = lambda _: None
        self.before_reply: Callable[[str, str], None] = lambda _op, _agent_id: None
        # What an operation is refused with: the code and the message.
        self.refusals: dict[str, tuple[str, str]] = {}
        # Why output waits, by agent.
        self.output_errors: dict[str, str] = {}
        self.heard: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener, self._accept)
        self._peer: socket.socket | None = None

    def of(self, op: str) -> list[dict[str, Any]]:
        return [request for request in self.heard if request["op"] == op]

    def tell(self, event: str, told: protocol.Status) -> None:
        assert self._peer is not None
        protocol.send(self._peer, {"event": event, "agent": told})

    def close(self) -> None:
        for sock in (self._listener, self._peer):
            if sock is not None:
                self._loop.remove_reader(sock)
                sock.close()

    def _accept(self) -> None:
        self._peer, _ = self._listener.accept()
        self._peer.setblocking(False)
        self._loop.add_reader(self._peer, self._read)

    def _read(self) -> None:
        assert self._peer is not None
        request = protocol.receive(self._peer)
        if request is None:
            self._loop.remove_reader(self._peer)
            return
        self.heard.append(request)
        for agent_id in request.get("agent_ids", [request.get("agent_id", "")]):
            self.before_reply(request["op"], agent_id)
        if refusal := self.refusals.get(request["op"]):
            error = dict(zip(("code", "message"), refusal, strict=True))
            protocol.send(self._peer, {"id": request["id"], "error": error})
            return
        protocol.send(self._peer, {"id": request["id"], "ok": self._reply(request)})

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "list":
            return self._list(request)
        if request["op"] == "usage":
            used = {each: [4096, 0.5, 2] for each in request["agent_ids"]}
            return {"usage": used, "output_errors": self.output_errors}
        return _REPLIES[request["op"]]

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        number = int(request.get("cursor") or "0")
        self.before_page(number)
        more = str(number + 1) if number + 1 < len(self.pages) else None
        return {"agents": self.pages[number], "next": more}
