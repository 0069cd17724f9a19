from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
from msgspec import msgpack

from descartesd.errors import (
    ConflictError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    WouldBlockError,
)
from descartesd.wire.agent import AgentWrite, Written
from descartesd.wire.envelope import Request
from descartesd.wire.methods import AGENT_WRITE
from tests.support.fakeserver import FakeServer
from tests.support.inloop import Connect

DATA = bytes(n % 253 for n in range(300_000))


@dataclass
class Stdin:
    """What a keeper keeps: what each writer has been taken, and what the agent can read."""

    room: int = 1 << 30
    most: int = 1 << 20
    dies_before_answer: int = 0
    got: bytes = b""
    writers: dict[str, int] = field(default_factory=dict)
    requests: list[AgentWrite] = field(default_factory=list)

    def handle(
        self, server: FakeServer, _: bytes, request: Request
    ) -> Written | DescartesError | None:
        write = msgpack.decode(request.params, type=AgentWrite)
        self.requests.append(write)
        assert write.writer is not None
        assert write.offset is not None
        at = self.writers.get(write.writer, 0)
        if write.offset > at:
            return ConflictError(f"a hole before {write.offset}")
        fresh = write.data[at - write.offset :][: min(self.most, self.room)]
        if not fresh and len(write.data) > at - write.offset:
            return WouldBlockError("it does not read")
        self.got += fresh
        self.room -= len(fresh)
        self.writers[write.writer] = at + len(fresh)
        if self.dies_before_answer:
            self.dies_before_answer -= 1
            server.restart_soon()
            return None
        return Written(accepted=len(fresh), offset=at + len(fresh))


@pytest.fixture
def stdin(server: FakeServer) -> Stdin:
    kept = Stdin()
    server.handlers["agent.write"] = kept.handle
    return kept


def test_a_long_write_goes_in_chunks_of_64_kib(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    written = connect(server.profile).write("worker", DATA)

    assert (written.accepted, stdin.got) == (len(DATA), DATA)
    assert [len(write.data) for write in stdin.requests] == [65_536] * 4 + [37_856]
    assert [write.offset for write in stdin.requests] == [n * 65_536 for n in range(5)]
    assert len(stdin.writers) == 1


def test_each_write_is_a_writer_of_its_own(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    client = connect(server.profile)

    client.write("worker", b"one ")
    client.write("worker", b"two")

    assert stdin.got == b"one two"
    assert list(stdin.writers.values()) == [4, 3]


def test_an_empty_write_still_asks_the_server(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.write"] = lambda *_: NotFoundError("no agent 'worker'")

    with pytest.raises(NotFoundError):
        connect(server.profile).write("worker", b"")


def test_no_byte_is_lost_or_doubled_when_the_server_dies_between(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    stdin.dies_before_answer = 2

    connect(server.profile).write("worker", DATA)

    assert stdin.got == DATA
    assert len(stdin.requests) == 5 + 2


def test_a_part_that_was_taken_is_gone_on_from(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    stdin.most = 50_000

    assert connect(server.profile).write("worker", DATA).accepted == len(DATA)
    assert stdin.got == DATA


def test_an_agent_that_reads_later_gets_everything(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    stdin.room = 100_000

    def read() -> None:
        stdin.room = 1 << 30

    reader = threading.Timer(0.1, server.run, [read])
    reader.start()
    try:
        connect(server.profile).write("worker", DATA)
    finally:
        reader.join()

    assert stdin.got == DATA


def test_an_agent_that_never_reads_ends_with_the_deadline(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    stdin.room = 100_000

    with pytest.raises(WouldBlockError, match="took 100000 of 300000 bytes") as caught:
        connect(server.profile).write("worker", DATA, deadline_s=0.3)

    assert caught.value.details == {"accepted": 100_000}
    assert caught.value.retryable
    # Pauses grow: 10, 20, 40, 80, 160 ms.
    assert len(stdin.requests) < 10


def test_another_refusal_ends_the_write(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.write"] = lambda *_: InvalidArgumentError("it has no stdin")

    with pytest.raises(InvalidArgumentError, match="no stdin"):
        connect(server.profile).write("worker", DATA)


def test_a_single_write_with_writer_and_offset_is_sent_again(
    connect: Connect, server: FakeServer, stdin: Stdin
) -> None:
    stdin.dies_before_answer = 1
    request = AgentWrite(id="worker", data=b"once", writer="my-own-writer", offset=0)

    written = connect(server.profile).call(AGENT_WRITE, request)

    assert (written.offset, stdin.got) == (4, b"once")
