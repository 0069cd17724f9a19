from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pytest
from msgspec import msgpack

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from descartesd.transport.calls import Patience
from descartesd.transport.inbound import InboundStream
from descartesd.wire import codec
from descartesd.wire.agent import AgentFollow, OutputChunk, StreamName
from descartesd.wire.envelope import VERSION, Credit, Incoming, StreamItem, StreamOpened, raw
from descartesd.wire.event import EventFollow
from descartesd.wire.methods import AGENT_FOLLOW, AGENT_SIGNAL, EVENT_FOLLOW
from descartesd.wire.server import Done
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer
from tests.support.inloop import Connect
from tests.support.source import Source
from tests.unit.client.test_channel import echo, signal

OUT = bytes(n % 251 for n in range(20_000))
ERR = bytes(n % 241 for n in range(3_000))
FOLLOW = AgentFollow(id="worker")


def collected(chunks: Iterable[OutputChunk]) -> dict[str, bytes]:
    """The bytes of each stream; every chunk must begin where the one before it ended."""
    found = {"stdout": b"", "stderr": b""}
    for chunk in chunks:
        assert chunk.offset == len(found[chunk.stream])
        assert chunk.next_offset == chunk.offset + len(chunk.data)
        found[chunk.stream] += chunk.data
    return found


def everything(client: Any, request: AgentFollow = FOLLOW) -> dict[str, bytes]:
    with client.stream(AGENT_FOLLOW, request) as chunks:
        return collected(chunks)


def test_items_come_in_order_and_the_stream_ends(connect: Connect, server: FakeServer) -> None:
    source = Source({"stdout": OUT, "stderr": ERR})
    source.serve(server)

    assert everything(connect(server.profile)) == {"stdout": OUT, "stderr": ERR}

    # 230 items, granted again in halves of 64: once for each full half before the end was known.
    assert 230 // 32 - 2 <= len(server.of("stream.credit")) <= 230 // 32
    assert len(source.opened) == 1


def test_large_items_are_granted_by_their_bytes(connect: Connect, server: FakeServer) -> None:
    data = OUT * 80
    Source({"stdout": data, "stderr": b""}, piece=60_000).serve(server)

    assert everything(connect(server.profile))["stdout"] == data
    assert server.of("stream.credit")


def test_a_slow_consumer_is_sent_no_more_than_it_granted(
    connect: Connect, server: FakeServer
) -> None:
    source = Source({"stdout": OUT, "stderr": b""})
    source.serve(server)

    with connect(server.profile).stream(AGENT_FOLLOW, FOLLOW) as chunks:
        first = next(chunks)
        eventually(lambda: source.opened[0].items == 0)
        assert source.opened[0].seq == 64

        list(islice(chunks, 30))
        assert source.opened[0].seq == 64
        next(chunks)
        eventually(lambda: source.opened[0].seq == 96)
    assert first.data == OUT[:100]


@pytest.mark.parametrize("overlap", [0, 99, 100, 777])
def test_a_follower_goes_on_where_the_connection_was_cut(
    connect: Connect, server: FakeServer, overlap: int
) -> None:
    source = Source({"stdout": OUT, "stderr": ERR}, overlap=overlap, cuts=[10, 40, 3, 1])
    source.serve(server)

    assert everything(connect(server.profile)) == {"stdout": OUT, "stderr": ERR}

    assert len(source.opened) == 5


def test_what_waits_for_the_consumer_counts_against_the_credit_of_the_next_stream() -> None:
    stream = opened()
    for number in range(60):
        stream.take(item("stdout", number * 100, bytes(100)))
    stream.pop()

    assert stream.survives("somewhere")
    again = codec.decode_request(stream.encode(1.0))

    assert isinstance(again.credit, Credit)
    assert (again.credit.items, again.credit.bytes) == (64 - 59, (1 << 20) - 5900)
    params = msgpack.decode(again.params, type=AgentFollow)
    assert params.offsets.stdout == 6000


def test_a_stream_once_open_waits_for_its_server_however_often_and_long_it_is_away() -> None:
    stream = opened()

    for at in (10.0, 20.0, 30.0, 40.0):
        assert stream.survives("somewhere")
        assert stream.limit == math.inf
        stream.sent(at)
        assert stream.limit == at + 3
        stream.take(Incoming(v=VERSION, id=1, stream=True))
    assert stream.survives("somewhere")
    stream.sent(50.0)
    assert stream.survives("somewhere")

    assert stream.limit == math.inf


def test_only_losses_that_brought_nothing_end_a_stream() -> None:
    stream = opened()

    for at in (1.0, 2.0, 3.0):
        assert stream.survives("somewhere")
        stream.sent(at)

    assert not stream.survives("somewhere")
    assert isinstance(stream.error, UnavailableError)


def test_a_stream_that_had_ended_is_not_opened_again() -> None:
    stream = opened()
    stream.take(item("stdout", 0, b"all", eof=True))
    stream.take(item("stderr", 0, b"", eof=True))

    assert not stream.survives("somewhere")

    chunks = [stream.pop(), stream.pop(), stream.pop()]
    assert [getattr(chunk, "stream", None) for chunk in chunks] == ["stdout", "stderr", None]
    assert (stream.is_over, stream.error) == (True, None)


def opened() -> InboundStream:
    stream = InboundStream(AGENT_FOLLOW, FOLLOW, timeout_s=3.0)
    stream.begin(1, 0.0, Patience(3.0))
    stream.sent(0.0)
    stream.take(Incoming(v=VERSION, id=1, stream=True))
    return stream


def item(stream: StreamName, offset: int, data: bytes, *, eof: bool = False) -> Incoming:
    after = offset + len(data)
    chunk = OutputChunk(
        stream=stream,
        data=data,
        offset=offset,
        next_offset=after,
        total=after,
        truncated_before=0,
        eof=eof,
    )
    return Incoming(v=VERSION, id=1, item=raw(chunk))


def test_a_stream_whose_server_dies_whenever_it_is_opened_fails(
    connect: Connect, server: FakeServer
) -> None:
    def dies(here: FakeServer, _: bytes, __: Any) -> None:
        here.restart_soon()

    server.handlers["agent.follow"] = dies

    with pytest.raises(UnavailableError, match="lost 3 times"):
        everything(connect(server.profile))
    assert len(server.of("agent.follow")) == 3


def test_a_server_that_stops_is_waited_for_and_its_connection_not_asked_again(
    connect: Connect, server: FakeServer
) -> None:
    source = Source({"stdout": OUT[:1000], "stderr": ERR[:50]}, ends=False)
    source.serve(server)
    waited: list[int] = []

    def comes_back() -> None:
        eventually(lambda: source.opened)
        first = source.opened[0]
        last = codec.failure(first.id, UnavailableError("stopping"))
        server.run(lambda: server.send(first.route, last))
        threading.Event().wait(0.3)
        waited.append(len(source.opened))
        source.data, source.ends = {"stdout": OUT, "stderr": ERR}, True
        server.restart()

    thread = threading.Thread(target=comes_back)
    thread.start()
    got = everything(connect(server.profile))
    thread.join()

    assert got == {"stdout": OUT, "stderr": ERR}
    assert (waited, len(source.opened)) == ([1], 2)


@pytest.mark.parametrize("has_opened", [False, True])
def test_a_refusal_ends_what_was_never_open_and_what_has_no_position(has_opened: bool) -> None:
    request = EventFollow() if has_opened else EventFollow(since=0)
    stream = InboundStream(EVENT_FOLLOW, request, timeout_s=3.0)
    stream.begin(1, 0.0, Patience(3.0))
    stream.sent(0.0)
    if has_opened:
        stream.take(Incoming(v=VERSION, id=1, stream=True))

    assert stream.take(Incoming(v=VERSION, id=1, error=codec.wire_error(UnavailableError("no"))))

    assert isinstance(stream.error, UnavailableError)


def test_an_error_ends_the_stream_behind_its_items(connect: Connect, server: FakeServer) -> None:
    Source({"stdout": OUT[:1000], "stderr": b""}, error=NotFoundError("removed")).serve(server)
    got: list[OutputChunk] = []

    with (
        pytest.raises(NotFoundError, match="removed"),
        connect(server.profile).stream(AGENT_FOLLOW, FOLLOW) as chunks,
    ):
        got.extend(chunks)

    assert collected(got)["stdout"] == OUT[:1000]


def test_a_refused_stream_raises(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.follow"] = lambda *_: ConflictError("not now")

    with pytest.raises(ConflictError, match="not now"):
        everything(connect(server.profile))


def test_closing_early_cancels_the_stream(connect: Connect, server: FakeServer) -> None:
    source = Source({"stdout": OUT, "stderr": ERR}, ends=False)
    source.serve(server)
    client = connect(server.profile)

    with client.stream(AGENT_FOLLOW, FOLLOW) as chunks:
        next(chunks)

    eventually(lambda: source.opened[0].is_over)
    server.handlers["agent.signal"] = echo
    assert client.call(AGENT_SIGNAL, signal(3)).processes == 3


def test_a_stream_nobody_opens_times_out(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.follow"] = lambda *_: None

    with pytest.raises(DeadlineExceededError, match=r"agent.follow' within 0.1 s"):
        everything(connect(server.profile, timeout_s=0.1))


def test_a_stream_may_be_silent_for_longer_than_the_time_out(
    connect: Connect, server: FakeServer
) -> None:
    source = Source({"stdout": b"first", "stderr": b""}, ends=False)
    source.serve(server)

    with (
        pytest.raises(DeadlineExceededError, match=r"was ended after 0.2 s, as asked"),
        connect(server.profile, timeout_s=0.1).stream(
            AGENT_FOLLOW, FOLLOW, deadline_s=0.2
        ) as chunks,
    ):
        list(chunks)
    eventually(lambda: source.opened[0].is_over)


def test_a_tail_is_turned_into_offsets_that_can_be_gone_on_from(
    connect: Connect, server: FakeServer
) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(300))
    source = Source({"stdout": lines, "stderr": b"only\n"}, piece=20, cuts=[5])
    source.serve(server)

    with connect(server.profile).stream(AGENT_FOLLOW, AgentFollow(id="worker", tail=50)) as chunks:
        got = list(chunks)

    out = b"".join(chunk.data for chunk in got if chunk.stream == "stdout")
    err = b"".join(chunk.data for chunk in got if chunk.stream == "stderr")
    assert out.splitlines() == lines.splitlines()[-50:]
    assert err == b"only\n"
    assert all(asked.tail is None for asked in source.asked)


def test_a_malformed_item_ends_the_stream_with_an_error(
    connect: Connect, server: FakeServer
) -> None:
    def follow(here: FakeServer, route: bytes, request: Any) -> None:
        here.send(route, StreamOpened(v=VERSION, id=request.id))
        here.send(route, StreamItem(v=VERSION, id=request.id, seq=0, item=Done()))

    server.handlers["agent.follow"] = follow

    with pytest.raises(InvalidArgumentError, match="malformed"):
        everything(connect(server.profile))


def test_calls_go_on_beside_streams_in_other_threads(server: FakeServer) -> None:
    Source({"stdout": OUT, "stderr": ERR}).serve(server)
    server.handlers["agent.signal"] = echo
    got: list[dict[str, bytes]] = []

    with Client(server.profile) as client:
        threads = [
            threading.Thread(target=lambda: got.append(everything(client))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for number in range(200):
            assert client.call(AGENT_SIGNAL, signal(1 + number % 60)).processes == 1 + number % 60
        for thread in threads:
            thread.join()

    assert got == [{"stdout": OUT, "stderr": ERR}] * 2
