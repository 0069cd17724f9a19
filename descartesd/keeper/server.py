"""The control socket: one daemon at a time, its requests, our replies and facts."""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgpack

from descartesd.errors import DescartesError, InternalError, UnimplementedError
from descartesd.keeper import protocol
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.loop import Loop

REQUESTS_PER_TURN: Final = 16
ACCEPT_RETRY_S: Final = 1.0
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
# Kept: one for each message has its buffer made anew each time.
_ENCODE: Final[protocol.Encode] = msgpack.Packer().pack
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
# What a mistake in one operation raises; answered as `internal`, the others are served on.
_BUGS: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)

Message = Mapping[str, Any]
Operation = Callable[["Request"], Message | None]


class Request:
    """One request, answered once: by its operation's result, or later."""

    __slots__ = ("_connection", "_request_id", "fields", "op")

    def __init__(self, connection: Connection, fields: Message) -> None:
        self._connection = connection
        self._request_id = fields.get("id")
        self.op = fields.get("op")
        self.fields = fields

    @property
    def request_id(self) -> Any:
        """What its answer is known by."""
        return self._request_id

    def reply(self, result: Message) -> None:
        """Answer; dropped when the daemon has gone."""
        self._connection.send({"id": self._request_id, "ok": result})

    def fail(self, error: DescartesError) -> None:
        """Answer with an error; dropped when the daemon has gone."""
        told = {"code": error.code, "message": error.message}
        if error.hint is not None:
            told["hint"] = error.hint
        self._connection.send({"id": self._request_id, "error": told})

    @property
    def is_wanted(self) -> bool:
        """Whether who asked is still there."""
        return self._connection.is_open

    @property
    def peer_pid(self) -> int:
        """The process that asked."""
        return self._connection.peer_pid


class Connection:
    """One connected daemon. While replies wait for room no further request is read."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self._sock = sock
        self._server = server
        self._outbox: deque[Message] = deque()
        self._is_open = True
        self._is_full = False
        self._is_held = False
        self.peer_pid = peer_of(sock)[0]
        server.loop.watch(sock.fileno(), self._on_ready)

    @property
    def is_open(self) -> bool:
        """Whether the daemon is still there."""
        return self._is_open

    @property
    def is_clear(self) -> bool:
        """Whether a fact can be sent now."""
        return self._is_open and not self._outbox

    def send(self, message: Message) -> None:
        """Send, or queue behind what waits already."""
        if not self._is_open:
            return
        self._outbox.append(message)
        if len(self._outbox) == 1:
            self._drain()

    def close(self) -> None:
        """End the connection; replies still to come are dropped."""
        if self._is_open:
            self._is_open = False
            if not self._is_held:
                self._server.loop.unwatch(self._sock.fileno())
            self._sock.close()

    def hold(self) -> None:
        """Leave further requests where they are until `release`."""
        self._is_held = True
        self._server.loop.unwatch(self._sock.fileno())

    def release(self) -> None:
        """Read on."""
        if self._is_open and self._is_held:
            self._is_held = False
            events = select.EPOLLOUT if self._is_full else select.EPOLLIN
            self._server.loop.watch(self._sock.fileno(), self._on_ready, events=events)

    def state(self) -> Message:
        """What another program of this process needs to go on with it."""
        return {
            "connection_fd": self._sock.fileno(),
            "outbox": [protocol.pack(each) for each in self._outbox],
        }

    def restore(self, outbox: Iterable[bytes]) -> None:
        """Send first what another program of this process had left to send."""
        self._outbox.extend(map(protocol.unpack, outbox))
        self._expect_room(is_full=bool(self._outbox))

    def _on_ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._drain()
        for _ in range(REQUESTS_PER_TURN):
            if not self.is_clear or not self._serve_one():
                return

    def _serve_one(self) -> bool:
        try:
            message = protocol.receive(self._sock)
        except BlockingIOError:
            return False
        except (OSError, RecursionError, TypeError, ValueError) as exc:
            self._server.say(f"connection of process {self.peer_pid} closed: {exc}")
            message = None
        if message is None:
            self._server.lose(self)
            return False
        self._server.handle(Request(self, message))
        return True

    def _drain(self) -> None:
        try:
            while self._outbox:
                protocol.send(self._sock, self._outbox[0], _ENCODE)
                self._outbox.popleft()
        except BlockingIOError:
            self._expect_room(is_full=True)
        except OSError:
            self._server.lose(self)
        else:
            if self._is_full:
                self._expect_room(is_full=False)

    def _expect_room(self, *, is_full: bool) -> None:
        if is_full != self._is_full:
            self._is_full = is_full
            if self._is_held:
                return
            events = select.EPOLLOUT if is_full else select.EPOLLIN
            self._server.loop.rewatch(self._sock.fileno(), events=events)


class Server:
    """Accepts the daemon, dispatches its requests, tells it what happened to its agents."""

    def __init__(
        self, loop: Loop, listener: socket.socket, *, trusted: int, say: Callable[[str], None]
    ) -> None:
        self.loop = loop
        self._trusted = trusted
        self.say = say
        self.operations: dict[str, Operation] = {}
        self.on_connection: Callable[[], None] = _nothing
        self._listener = listener
        self._connection: Connection | None = None
        # At most one entry an agent and fact, however long the daemon does not read.
        self._unsent: dict[tuple[str, str], Agent] = {}
        loop.watch(listener.fileno(), self._on_connect)
        loop.call_after_turn(self.flush)

    @property
    def is_connected(self) -> bool:
        """Whether a daemon is there."""
        return self._connection is not None

    def tell(self, event: str, agent: Agent) -> None:
        """Send this fact as soon as there is room; dropped without a daemon, who begins by list."""
        if self._connection is not None:
            self._unsent[agent.agent_id, event] = agent

    def untell(self, agent: Agent) -> None:
        """Drop the unsent facts of an attempt that is over for the daemon too."""
        for event in ("exited", "eof"):
            self._unsent.pop((agent.agent_id, event), None)

    def flush(self) -> None:
        """Send unsent facts while there is room."""
        while self._unsent and self._connection is not None and self._connection.is_clear:
            (agent_id, event), agent = next(iter(self._unsent.items()))
            del self._unsent[agent_id, event]
            status = agent.status()
            if status["eof"]:
                # It says both.
                self._unsent.pop((agent_id, "eof"), None)
            self._connection.send({"event": event, "agent": status})

    def handle(self, request: Request) -> None:
        """Carry out a request; whatever it raises becomes its answer."""
        self.carry_out(request, self._operate)

    def carry_out(self, request: Request, operation: Operation) -> None:
        """The same by an operation that is known, or by a part of it that comes later."""
        # What it meets already was so before: the daemon must not take it for what came of this.
        if self._unsent:
            self.flush()
        try:
            result = operation(request)
        except DescartesError as error:
            request.fail(error)
        except _BUGS as bug:
            sys.excepthook(type(bug), bug, bug.__traceback__)
            request.fail(InternalError(f"operation '{request.op}' met {type(bug).__name__}"))
        else:
            if result is not None:
                request.reply(result)

    def lose(self, connection: Connection) -> None:
        """Close a connection; the agents do not notice."""
        connection.close()
        if connection is self._connection:
            self._connection = None
            self._unsent.clear()
            self.on_connection()

    def hold(self) -> None:
        """Take no further request and nobody's connection until `release`."""
        self.loop.rewatch(self._listener.fileno(), events=0)
        if self._connection is not None:
            self._connection.hold()

    def release(self) -> None:
        """Serve on."""
        self._accept_again()
        if self._connection is not None:
            self._connection.release()

    def state(self) -> Message:
        """What `restore` needs."""
        there = self._connection
        return {
            "listener_fd": self._listener.fileno(),
            "connection": None if there is None else there.state(),
            "unsent": [[agent.agent_id, event] for (_, event), agent in self._unsent.items()],
        }

    def restore(self, state: Message, agents: Agents) -> None:
        """Go on where another program of this process has been, with the daemon it had."""
        if state["connection"] is not None:
            sock = socket.socket(fileno=state["connection"]["connection_fd"])
            sock.setblocking(False)
            self._connection = Connection(sock, self)
            self._connection.restore(state["connection"]["outbox"])
        for agent_id, event in state["unsent"]:
            if (agent := agents.find(agent_id)) is not None:
                self._unsent[agent_id, event] = agent

    def resume_request(self, request_id: Any, op: str) -> Request | None:
        """A request that another program of this process has read and not answered."""
        if self._connection is None:
            return None
        return Request(self._connection, {"id": request_id, "op": op})

    def close(self) -> None:
        """Stop listening and close the connection."""
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        if self._connection is not None:
            self.lose(self._connection)

    def _operate(self, request: Request) -> Message | None:
        operation = self.operations.get(request.op) if isinstance(request.op, str) else None
        if operation is None:
            raise UnimplementedError(f"no operation {request.op!r:.80}")
        return operation(request)

    def _on_connect(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as exc:
            if exc.errno in _NO_DESCRIPTOR:
                self.loop.rewatch(self._listener.fileno(), events=0)
                self.loop.call_later(ACCEPT_RETRY_S, self._accept_again)
            return
        pid, uid = peer_of(sock)
        if uid not in (self._trusted, 0):
            self.say(f"connection of process {pid} refused: its user is {uid}")
            sock.close()
            return
        sock.setblocking(False)
        if self._connection is not None:
            self._connection.close()
        self._unsent.clear()
        self._connection = Connection(sock, self)
        self.on_connection()

    def _accept_again(self) -> None:
        self.loop.rewatch(self._listener.fileno(), events=select.EPOLLIN)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id of the other end, by the kernel's word (unix(7), SO_PEERCRED)."""
    pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


def _nothing() -> None:
    return None
