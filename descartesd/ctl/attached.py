"""What goes on between the terminal of descartesctl and that of an agent it is attached to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from descartesd.client.writing import StdinWrite
from descartesd.ctl import keys, terminal
from descartesd.ctl.output import Output
from descartesd.ctl.text import safe
from descartesd.errors import ConflictError, DescartesError, UnavailableError, WouldBlockError
from descartesd.wire.methods import AGENT_WRITE
from descartesd.wire.terminal import Modes

if TYPE_CHECKING:
    from descartesd.client import AsyncAttachment, AsyncClient
    from descartesd.wire.agent import AgentInfo
    from descartesd.wire.attach import AttachChunk

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_PIECE = 64 * 1024
# What is typed or pasted for an agent that does not read: the keys that leave may come behind it.
_TYPED_BYTES = 1024 * 1024
# As a shell shows a program that was ended by a signal.
_BY_SIGNAL = 128


class Input:
    """What comes on stdin, for the agent."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._keys = keys.Keys() if is_terminal else None
        self._most = _TYPED_BYTES if is_terminal else _PIECE
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._waiting = bytearray()
        # Where it was closed, its number may be another descriptor's by now.
        self._has_ended = sys.stdin is None
        self._is_watched = False
        # Set when the keys that leave were typed, or the terminal is gone.
        self.left = asyncio.Event()

    async def next(self) -> bytes:
        """What has come since, once there is some; empty at the end."""
        while not self._waiting and not self._has_ended:
            self._watch()
            await self._news.wait()
            self._news.clear()
        piece = bytes(self._waiting)
        self._waiting.clear()
        return piece

    def close(self) -> None:
        """Read no more."""
        if self._is_watched:
            self._loop.remove_reader(_STDIN)
            self._is_watched = False

    def _watch(self) -> None:
        if self._is_watched:
            return
        try:
            self._loop.add_reader(_STDIN, self._read)
            self._is_watched = True
        except PermissionError:
            # A file, or nothing: epoll(7) does not take it, and to read it never waits.
            self._read()

    def _read(self) -> None:
        try:
            piece = os.read(_STDIN, _PIECE)
        except OSError:
            piece = b""
        if not piece:
            self.close()
            self._has_ended = True
            if self._keys is not None:
                self.left.set()
        elif self._keys is not None:
            piece = self._keys.feed(piece)
            if self._keys.has_left:
                self.left.set()
        self._waiting += piece
        if len(self._waiting) >= self._most:
            # Read on when the agent has: its keeper holds enough already.
            self.close()
        self._news.set()


class Session:
    """One attachment, from its first chunk to its end."""

    def __init__(
        self, out: Output, agent: AgentInfo, *, watch: bool, must_redraw: bool = True
    ) -> None:
        """`must_redraw`: the agent's terminal may be of another size, and its screen half known."""
        self._out = out
        self._agent = agent
        self._watch = watch
        self._must_redraw = must_redraw
        self._is_tty = agent.spec.tty is not None
        self._is_typed = os.isatty(_STDIN)
        self._is_shown = os.isatty(_STDOUT) and not out.json
        self._takes_keys = self._is_tty and self._is_typed and not out.json
        self._is_raw = False
        self._modes = Modes()
        self._input = Input(is_terminal=self._is_typed)
        self._resized = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._undo = contextlib.ExitStack()
        self._is_over = asyncio.Event()
        self._ended: AgentInfo | None = None
        self._failure: DescartesError | OSError | None = None
        # The signal that ended it, 0 when none did.
        self._signal = 0

    @property
    def status(self) -> int:
        """The exit status of one that was left: 0, unless a signal did it."""
        return _BY_SIGNAL + self._signal if self._signal else 0

    async def run(self, client: AsyncClient, attachment: AsyncAttachment) -> AgentInfo | None:
        """Show what comes and forward what is typed; the agent as it ended, None when it was left.

        Raises what the server refuses it with.
        """
        async with asyncio.TaskGroup() as group:
            try:
                async for chunk in attachment:
                    if not self._tasks:
                        self._begin(client, attachment, group)
                    self._show(chunk)
                # Some programs close their output and run on.
                await self._is_over.wait()
            except (DescartesError, OSError) as error:
                self._failure = error
            finally:
                for task in self._tasks:
                    task.cancel()
                self._input.close()
                self._undo.close()
        if self._failure is not None:
            raise self._failure
        return self._ended

    def on_return(self) -> None:
        """The connection is back: have the screen drawn anew over what has been told."""
        self._must_redraw = True
        self._resized.set()

    def tell(self, text: str) -> None:
        """Tell people something, wherever the cursor is."""
        if self._is_raw and not self._out.json:
            self._out.raw(f"\r\n{safe(text)}\r\n".encode(), to_stderr=True)
        else:
            self._out.note(text)

    def _begin(
        self, client: AsyncClient, attachment: AsyncAttachment, group: asyncio.TaskGroup
    ) -> None:
        """Take the terminal over, now that the agent's is ours."""
        how = "looking on at" if self._watch else "attached to"
        leave = keys.SHOWN if self._takes_keys else "ctrl-d"
        self.tell(f"{how} {self._agent.name}" + (f"; leave with {leave}" if self._is_typed else ""))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            loop.add_signal_handler(number, self._end_by, number)
        if self._takes_keys:
            self._undo.enter_context(terminal.raw(_STDIN, signals=self._watch))
            self._is_raw = True
        # Before the mode: what it writes is for the terminal as it was.
        self._undo.callback(self._leave_screen)
        work = [self._leave(attachment), self._await_end(client)]
        if self._is_typed or not self._watch:
            work.append(self._forward(client))
        if self._takes_keys and not self._watch:
            loop.add_signal_handler(signal.SIGWINCH, self._resized.set)
            self._resized.set()
            work.append(self._fit(attachment))
        self._tasks = [group.create_task(self._guarded(each, attachment)) for each in work]

    async def _guarded(
        self, work: Coroutine[object, object, None], attachment: AsyncAttachment
    ) -> None:
        try:
            await work
        except DescartesError as error:
            self._failure = error
            self._is_over.set()
            await attachment.detach()

    def _end_by(self, number: int) -> None:
        self._signal = number
        self._input.left.set()

    async def _leave(self, attachment: AsyncAttachment) -> None:
        await self._input.left.wait()
        self._is_over.set()
        await attachment.detach()

    async def _await_end(self, client: AsyncClient) -> None:
        """Ask from the beginning how it ends: a server that ends with it has no time later."""
        self._ended = await client.agent.wait(id=self._agent.id)
        self._is_over.set()

    async def _forward(self, client: AsyncClient) -> None:
        while piece := await self._input.next():
            # An agent that ends, or whose stdin was closed, is shown to its end all the same.
            with contextlib.suppress(ConflictError):
                if not self._watch:
                    await _write(client, self._agent.id, piece)

    async def _fit(self, attachment: AsyncAttachment) -> None:
        """Keep the agent's terminal as large as ours."""
        while True:
            await self._resized.wait()
            self._resized.clear()
            size = terminal.size_of(_STDIN, _STDOUT, _STDERR)
            must_redraw, self._must_redraw = self._must_redraw, False
            # A server that stops comes back with a redraw, or not at all.
            with contextlib.suppress(ConflictError, UnavailableError):
                if size is not None:
                    await (attachment.redraw if must_redraw else attachment.resize)(*size)

    def _show(self, chunk: AttachChunk) -> None:
        if self._is_tty and self._is_shown:
            modes = chunk.modes or b""
            self._modes.feed(modes + chunk.data)
            self._out.raw(modes)
        self._out.chunk(chunk)

    def _leave_screen(self) -> None:
        """Bring our terminal out of whatever the agent has put it in."""
        self._is_raw = False
        if self._is_tty and self._is_shown:
            with contextlib.suppress(OSError):
                ends = b"" if self._modes.has_other_screen else b"\r\n"
                self._out.raw(b"\x1b[m" + self._modes.leave() + ends)


async def _write(client: AsyncClient, agent_id: str, data: bytes) -> None:
    """Write each byte once, however long the agent does not read or the server is away."""
    write = StdinWrite(agent_id, data)
    while not write.is_done:
        try:
            pause_s = write.note(await client.call(AGENT_WRITE, write.request()))
        except (UnavailableError, WouldBlockError) as error:
            if not error.retryable:
                raise
            pause_s = write.pause_s()
        await asyncio.sleep(pause_s)
