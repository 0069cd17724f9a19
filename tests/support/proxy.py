"""A TCP proxy that misbehaves on demand, as networks do.

    with Proxy(port) as proxy:
        client of f"tcp://127.0.0.1:{proxy.port}"
        proxy.mode = "half-open"

pass       bytes go through
delay      each piece of bytes waits `delay_s` first; the order is kept
stall      bytes wait until the mode is another one
half-open  what either side sends, its end included, is swallowed, then and later on
refuse     nobody listens; connections there are stay
`cut` resets every connection there is; `slow_close` closes them towards the server only, and
leaves the client with a connection nobody reads or writes. Neither changes the mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

Mode = Literal["pass", "delay", "stall", "half-open", "refuse"]

_PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)
T = TypeVar("T")


class _Pair:
    """One client's connection and the one to the server in its stead."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.is_dead = False
        self.has_server_left = False

    def drop_server(self) -> None:
        if self.server is not None:
            self.server.close()

    def reset(self) -> None:
        for writer in filter(None, (self.client, self.server)):
            opened = writer.get_extra_info("socket")
            if opened.fileno() != -1:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


class Proxy:
    """Listens on 127.0.0.1 in front of a port there, in a thread of its own."""

    def __init__(self, target: int, *, delay_s: float = 0.05) -> None:
        self.delay_s = delay_s
        self.accepted = 0
        # Pieces of bytes that went through, in either direction.
        self.passed = 0
        self._target = target
        self._mode: Mode = "pass"
        self._moving = asyncio.Event()
        self._moving.set()
        self._pairs: dict[asyncio.Task[None], _Pair] = {}
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def mode(self) -> Mode:
        """What is done with bytes and new connections."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._run(self._change(mode))

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._pairs)

    @property
    def served(self) -> int:
        """How many of these connections the server has not ended."""
        return sum(not pair.has_server_left for pair in self._pairs.values())

    def cut(self) -> None:
        """Reset every connection (RST), towards both sides."""
        self._run(self._each(_Pair.reset))

    def slow_close(self) -> None:
        """End every connection towards the server and leave the client's open, and dead."""
        self._run(self._each(_Pair.drop_server))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _each(self, act: Callable[[_Pair], None]) -> None:
        for pair in self._pairs.values():
            act(pair)

    async def _change(self, mode: Mode) -> None:
        if mode == "refuse":
            await self._deafen()
        elif self._mode == "refuse":
            await self._listen()
        self._mode = mode
        if mode == "stall":
            self._moving.clear()
        else:
            self._moving.set()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _deafen(self) -> None:
        # Not wait_closed: that would wait for the connections, which are to stay.
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _finish(self) -> None:
        await self._deafen()
        tasks = list(self._pairs)
        for task, pair in self._pairs.items():
            pair.reset()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        pair = self._pairs[task] = _Pair(client)
        try:
            await self._carry(pair, reader)
        except (OSError, asyncio.CancelledError):
            # A connection that broke, or the end of the test: nobody is left to tell.
            pair.reset()
        finally:
            del self._pairs[task]
            pair.client.close()
            pair.drop_server()

    async def _carry(self, pair: _Pair, from_client: asyncio.StreamReader) -> None:
        from_server, pair.server = await asyncio.open_connection("127.0.0.1", self._target)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(from_client, pair.server, pair), name="to-server")
            group.create_task(self._pump(from_server, pair.client, pair), name="to-client")

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: _Pair
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await source.read(_PIECE):
                await self._pass_on(piece, sink, pair)
        if sink is pair.client:
            pair.has_server_left = True
        dropped = pair.server is not None and pair.server.is_closing()
        if not (pair.is_dead or self._mode == "half-open" or (sink is pair.client and dropped)):
            sink.close()

    async def _pass_on(self, piece: bytes, sink: asyncio.StreamWriter, pair: _Pair) -> None:
        if self._mode == "delay":
            await asyncio.sleep(self.delay_s)
        await self._moving.wait()
        if self._mode == "half-open":
            pair.is_dead = True
        if not pair.is_dead and not sink.is_closing():
            sink.write(piece)
            self.passed += 1
            await sink.drain()
