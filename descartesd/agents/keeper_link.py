"""The daemon's end of the keeper's control socket, inside the event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec

from descartesd.errors import (
    ERRORS,
    AbortedError,
    DescartesError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from descartesd.keeper import protocol
from descartesd.keeper.protocol import Status

log = logging.getLogger(__name__)

_BUDGET = 64
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
# What a message over 64 KiB may meet: it needs a descriptor of its own.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class KeeperLink:
    """One connection. Requests are answered in any order; facts come through `on_event`."""

    def __init__(self, *, on_lost: Callable[[], None]) -> None:
        self.on_event: Callable[[str, Status], None] = _unheard
        self._on_lost = on_lost
        self._socket: socket.socket | None = None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._unsent: deque[dict[str, Any]] = deque()
        self._next_id = 0
        # How often a connection was made: what one was asked, the next knows nothing of.
        self.connections = 0
        self.pid: int | None = None
        self.version: str | None = None
        # A checksum of the code it runs.
        self.build: str | None = None
        self.boot_id: str | None = None
        # Tells this keeper from every other.
        self.identity: str | None = None
        # Where it writes the agents' output.
        self.output_dir = ""
        self._features: frozenset[str] = frozenset()
        # Told to end: its going is no loss.
        self.leaving = False

    @property
    def connected(self) -> bool:
        """Whether a keeper answers."""
        return self._socket is not None and self.pid is not None

    def has(self, feature: str) -> bool:
        """Whether a keeper answers that can do this."""
        return self.connected and feature in self._features

    async def connect(self, path: str) -> None:
        """Connect and greet; raises OSError when nobody listens, UnimplementedError on another
        generation of the protocol.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        # What is left of an earlier connection would be kept open for ever.
        self._disconnect()
        self._socket = sock
        self.connections += 1
        asyncio.get_running_loop().add_reader(sock, self._readable)
        try:
            self._meet(await self.request("hello", version=protocol.VERSION))
        finally:
            if self.pid is None:
                self._disconnect()

    def _meet(self, facts: dict[str, Any]) -> None:
        """Note who answers; what a keeper of an earlier version does not tell, it has not."""
        self.version = str(facts["version"])
        self.build = str(facts.get("build", ""))
        self.boot_id = str(facts["boot_id"])
        self._features = frozenset(facts.get("features", ()))
        self.pid = int(facts["pid"])
        self.identity = f"{self.pid} {facts['started_at']}"
        self.output_dir = str(facts.get("output_dir", ""))

    async def reexecute(self) -> None:
        """Have the keeper turn into the program installed now; what is asked meanwhile waits.

        Raises UnavailableError where it is to be asked again, UnimplementedError where that
        program cannot take over; then the keeper is as it was.
        """
        self._meet(await self.request("reexec"))

    async def answers(self, within_s: float) -> bool:
        """Ask the keeper for a sign of life."""
        try:
            async with asyncio.timeout(within_s):
                await self.request("hello", version=protocol.VERSION)
        except (TimeoutError, DescartesError):
            return False
        return True

    def close(self) -> None:
        """Leave the keeper to itself; what is unanswered fails."""
        self._disconnect()

    def request(self, op: str, **fields: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a request now; the future has the reply, or the keeper's error."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._socket is None:
            future.set_exception(
                UnavailableError(
                    "the keeper is not connected",
                    hint="see what happened with: descartesctl server health",
                )
            )
            return future
        self._next_id += 1
        self._pending[self._next_id] = future
        self._send({"id": self._next_id, "op": op, **fields})
        return future

    def spawn(self, **fields: Any) -> asyncio.Future[dict[str, Any]]:
        """Send the request `spawn`; of a keeper older than the daemon nothing it would not heed.

        Raises UnimplementedError.
        """
        if self.version is not None and self.version != protocol.VERSION:
            self._fit(fields, _number(self.version))
        return self.request("spawn", **fields)

    def _fit(self, fields: dict[str, Any], version: tuple[int, ...]) -> None:
        if version < (1, 1):
            fields["env"] = {**fields["env"], **fields.pop("env_over", {})}
        unknown = [
            name
            for since, names in protocol.SPAWN_SINCE.items()
            for name in names
            if version < since and name in fields
        ]
        if unknown:
            raise UnimplementedError(
                f"the keeper that runs speaks version {self.version} of its protocol and"
                f" has no '{unknown[0]}'",
                hint="restart the keeper, which ends its agents",
            )

    def tell(self, op: str, **fields: Any) -> None:
        """Ask without waiting: a refusal only means the keeper is gone, which is told anyway."""
        asked = self.request(op, **fields)
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def statuses(self) -> list[Status]:
        """Every agent the keeper knows."""
        found: list[Status] = []
        cursor: Any = None
        while True:
            fields = {} if cursor is None else {"cursor": cursor}
            page = await self.request("list", **fields)
            found.extend(cast("list[Status]", page["agents"]))
            cursor = page.get("next")
            if cursor is None:
                return found

    def _send(self, message: dict[str, Any]) -> None:
        if self._unsent:
            self._unsent.append(message)
            return
        sock = self._socket
        if sock is None:
            return
        try:
            self._transmit(sock, message)
        except BlockingIOError:
            self._unsent.append(message)
            asyncio.get_running_loop().add_writer(sock, self._writable)

    def _writable(self) -> None:
        while self._socket is not None and self._unsent:
            try:
                self._transmit(self._socket, self._unsent[0])
            except BlockingIOError:
                return
            # Nothing is left of them when the keeper has gone.
            if self._unsent:
                self._unsent.popleft()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)

    def _transmit(self, sock: socket.socket, message: dict[str, Any]) -> None:
        """Send one message; raises BlockingIOError when the keeper's queue is full."""
        try:
            protocol.send(sock, message, _encode)
        except BlockingIOError:
            raise
        except OSError as exc:
            if exc.errno not in _SHORTAGES:
                self._lose(exc)
                return
            future = self._pending.pop(message["id"])
            if not future.done():
                future.set_exception(
                    ResourceExhaustedError(f"the keeper cannot be asked now: {exc.strerror}")
                )

    def _readable(self) -> None:
        for _ in range(_BUDGET):
            sock = self._socket
            if sock is None:
                return
            try:
                message = protocol.receive(sock, _decode)
            except BlockingIOError:
                return
            except (OSError, ValueError, msgspec.DecodeError) as exc:
                self._lose(exc)
                return
            if message is None:
                self._lose(None)
                return
            try:
                self._take(message)
            except (KeyError, TypeError, ValueError) as exc:
                # What was not understood is told again by the list of the next connection.
                log.exception("keeper.not_understood")
                self._lose(exc)
                return

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.on_event(str(message["event"]), cast("Status", message["agent"]))
            return
        future = self._pending.pop(message["id"], None)
        if future is None or future.done():
            return
        if "error" in message:
            error = message["error"]
            kind = ERRORS.get(error["code"], InternalError)
            future.set_exception(kind(error["message"], hint=error.get("hint")))
        else:
            future.set_result(message["ok"])

    def _lose(self, cause: Exception | None) -> None:
        # One that never answered was never there.
        if self.pid is not None and not self.leaving:
            cause_text = str(cause or "closed")
            log.error("keeper.lost", extra={"keeper_pid": self.pid, "cause": cause_text})
        self._disconnect()
        self._on_lost()

    def _disconnect(self) -> None:
        sock, self._socket = self._socket, None
        self.pid = None
        if sock is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(sock)
            loop.remove_writer(sock)
            sock.close()
        self._unsent.clear()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(
                    AbortedError(
                        "the connection to the keeper ended before it answered",
                        hint="look at the agent, then ask again",
                    )
                )
                # Nobody may be waiting any more: that is no error of the loop's.
                future.exception()


def _unheard(event: str, _status: Status) -> None:
    log.error("keeper.event_unheard", extra={"event": event})


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def boot_id() -> str:
    """Tell this boot of the host from every other (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
