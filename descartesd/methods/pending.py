"""The requests that are being worked on, and how much of them a connection, and one peer, has."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from descartesd.errors import InvalidArgumentError, ResourceExhaustedError
from descartesd.methods.call import Call
from descartesd.methods.rows import Row
from descartesd.transport.streams import Key

MOST = 1000
# Decoded, requests take about four times as much.
MOST_BYTES = 4 << 20
# What one identity may have over all its connections, as so many full ones.
FULL_CONNECTIONS = 10


@dataclass(slots=True, eq=False)
class Pending:
    """A request that is being worked on; `size` bytes are kept for it."""

    key: Key
    row: Row
    call: Call
    size: int
    task: asyncio.Task[None] = field(init=False)
    # The bytes of the request; an answer that waits to be read is counted to its connection alone.
    came_as: int = 0
    # It took longer than it might.
    is_late: bool = False

    def end_late(self) -> None:
        """End it for having taken too long."""
        self.is_late = True
        self.task.cancel()


class PendingRequests:
    """All of them, each by the route and the id it came under."""

    def __init__(self) -> None:
        self._all: dict[Key, Pending] = {}
        self._count: Counter[bytes] = Counter()
        self._bytes: Counter[bytes] = Counter()
        # How many each identity has, and their bytes as they came.
        self._of: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, key: Key, size: int, user_id: str) -> None:
        """See that one more of `size` bytes may begin for who is called so.

        Raises InvalidArgumentError when its id is taken, ResourceExhaustedError when it is too
        much.
        """
        route, request_id = key
        same = self._all.get(key)
        if same is not None:
            if not same.task.cancelling():
                raise InvalidArgumentError(
                    f"id: a request '{request_id}' is open on this connection already"
                )
            self.close(same)
        if self._count[route] >= MOST:
            raise ResourceExhaustedError(
                f"{MOST} requests are open on this connection",
                hint="wait for answers before asking on",
            )
        if self._count[route] and self._bytes[route] + size > MOST_BYTES:
            raise ResourceExhaustedError(
                f"the requests open on this connection have {MOST_BYTES >> 20} MiB together",
                hint="read answers before asking on",
            )
        mine = self._of.get(user_id)
        if mine is not None and (
            mine[0] >= MOST * FULL_CONNECTIONS or mine[1] + size > MOST_BYTES * FULL_CONNECTIONS
        ):
            raise ResourceExhaustedError(
                f"{user_id} has {mine[0]} requests open on its connections, of {mine[1] >> 20} MiB",
                hint="wait for answers before asking on",
            )

    def add(self, pending: Pending) -> None:
        """Take in one that was admitted; it is closed when its task is done at the latest."""
        key = pending.key
        self._all[key] = pending
        self._count[key[0]] += 1
        self._bytes[key[0]] += pending.size
        mine = self._of.setdefault(pending.call.peer.user_id, [0, 0])
        mine[0] += 1
        mine[1] += pending.size
        pending.came_as = pending.size
        pending.task.add_done_callback(lambda _: self.close(pending))

    def resize(self, pending: Pending, size: int) -> None:
        """From now on so many bytes are kept for it."""
        self._bytes[pending.key[0]] += size - pending.size
        pending.size = size

    def close(self, pending: Pending) -> None:
        """Forget a request, before its last message goes out: its id may come again at once."""
        key = pending.key
        if self._all.get(key) is not pending:
            return
        del self._all[key]
        route = key[0]
        self._count[route] -= 1
        self._bytes[route] -= pending.size
        if not self._count[route]:
            del self._count[route], self._bytes[route]
        mine = self._of[pending.call.peer.user_id]
        mine[0] -= 1
        mine[1] -= pending.came_as
        if not mine[0]:
            del self._of[pending.call.peer.user_id]

    def of_route(self, route: bytes) -> list[Pending]:
        """Those that came by this route."""
        return [pending for key, pending in self._all.items() if key[0] == route]

    def of_connection(self, fd: int) -> list[Pending]:
        """Those of the connection with this descriptor."""
        return [pending for pending in self._all.values() if pending.call.peer.fd == fd]

    def tasks(self) -> list[asyncio.Task[None]]:
        """What works on them."""
        return [pending.task for pending in self._all.values()]

    def but_streams(self) -> list[Pending]:
        """Those that get one answer."""
        return [each for each in self._all.values() if not each.row.method.stream]
