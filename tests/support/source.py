"""The output of one agent, streamed by a FakeServer as a real one does: under credit."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import msgpack

from descartesd.errors import DescartesError
from descartesd.wire import codec
from descartesd.wire.agent import AgentFollow, AgentOutput, OutputChunk, StreamName
from descartesd.wire.envelope import VERSION, Credit, Request, StreamEnd, StreamItem, StreamOpened
from descartesd.wire.server import Done, StreamCancel, StreamCredit
from tests.support.fakeserver import FakeServer


@dataclass
class Opened:
    """One stream as the server keeps it."""

    route: bytes
    id: str | int
    items: int
    bytes: int
    at: dict[StreamName, int]
    seq: int = 0
    sent_bytes: int = 0
    least_bytes: int = 0
    is_over: bool = False


@dataclass
class Source:
    """Bytes by stream, sent in pieces; `overlap` bytes before the wanted offset come again.

    Kills and restarts its server after each of the `cuts` items of one stream. With `ends` it
    ends a stream when everything is sent, with `error` by that.
    """

    data: dict[StreamName, bytes]
    piece: int = 100
    overlap: int = 0
    cuts: list[int] = field(default_factory=list)
    ends: bool = True
    error: DescartesError | None = None
    opened: list[Opened] = field(default_factory=list)
    asked: list[AgentFollow] = field(default_factory=list)

    def serve(self, server: FakeServer) -> None:
        """Answer for this agent."""
        server.handlers["agent.follow"] = self._follow
        server.handlers["agent.output"] = self._output
        server.handlers["stream.credit"] = self._credit
        server.handlers["stream.cancel"] = self._cancel

    def _follow(self, server: FakeServer, route: bytes, request: Request) -> None:
        wanted = msgpack.decode(request.params, type=AgentFollow)
        self.asked.append(wanted)
        credit = request.credit if isinstance(request.credit, Credit) else Credit()
        begin = {"stdout": wanted.offsets.stdout, "stderr": wanted.offsets.stderr}
        opened = Opened(
            route,
            request.id,
            credit.items,
            credit.bytes,
            {stream: max(begin[stream] - self.overlap, 0) for stream in wanted.streams},
        )
        self.opened.append(opened)
        server.send(route, StreamOpened(v=VERSION, id=request.id))
        self._pump(server, opened)

    def _pump(self, server: FakeServer, opened: Opened) -> None:
        while not opened.is_over and opened.items > 0 and opened.bytes > 0:
            if self.cuts and opened.seq == self.cuts[0]:
                self.cuts.pop(0)
                opened.is_over = True
                server.restart_soon()
                return
            stream = self._next(opened)
            if stream is None:
                if self.ends:
                    opened.is_over = True
                    self._end(server, opened)
                return
            self._send(server, opened, stream)

    def _next(self, opened: Opened) -> StreamName | None:
        left = [s for s, at in opened.at.items() if at <= len(self.data[s])]
        return max(left, key=lambda s: len(self.data[s]) - opened.at[s], default=None)

    def _send(self, server: FakeServer, opened: Opened, stream: StreamName) -> None:
        data, at = self.data[stream], opened.at[stream]
        piece = data[at : at + self.piece]
        after = at + len(piece)
        is_last = after == len(data)
        chunk = OutputChunk(
            stream=stream,
            data=piece,
            offset=at,
            next_offset=after,
            total=len(data),
            truncated_before=0,
            eof=is_last and self.ends,
        )
        server.send(opened.route, StreamItem(v=VERSION, id=opened.id, seq=opened.seq, item=chunk))
        opened.seq += 1
        opened.items -= 1
        opened.bytes -= len(piece)
        opened.sent_bytes += len(piece)
        opened.at[stream] = after + 1 if is_last else after

    def _end(self, server: FakeServer, opened: Opened) -> None:
        end: bytes | StreamEnd = StreamEnd(v=VERSION, id=opened.id)
        if self.error is not None:
            end = codec.failure(opened.id, self.error)
        server.send(opened.route, end)

    def _credit(self, server: FakeServer, route: bytes, request: Request) -> Done:
        grant = msgpack.decode(request.params, type=StreamCredit)
        for opened in self.opened:
            if opened.route == route and opened.id == grant.stream:
                opened.items += grant.items
                opened.bytes += grant.bytes
                self._pump(server, opened)
        return Done()

    def _cancel(self, _: FakeServer, route: bytes, request: Request) -> Done:
        wish = msgpack.decode(request.params, type=StreamCancel)
        for opened in self.opened:
            if opened.route == route and opened.id == wish.stream:
                opened.is_over = True
        return Done()

    def _output(self, _: FakeServer, __: bytes, request: Request) -> OutputChunk:
        wanted = msgpack.decode(request.params, type=AgentOutput)
        data = self.data[wanted.stream]
        lines = data.splitlines(keepends=True)
        kept = sum(map(len, lines[len(lines) - min(wanted.tail or 0, len(lines)) :]))
        offset = wanted.offset if wanted.tail is None else len(data) - kept
        piece = data[offset : offset + wanted.limit]
        return OutputChunk(
            stream=wanted.stream,
            data=piece,
            offset=offset,
            next_offset=offset + len(piece),
            total=len(data),
            truncated_before=0,
            eof=False,
        )
