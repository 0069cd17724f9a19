"""Output, follow and stdin, over CURVE and real processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    WouldBlockError,
)
from descartesd.wire.agent import Limits, OutputChunk
from tests.support.agents import (
    SLEEP,
    left_empty,
    output,
    python,
    sh,
    spec,
    until_output,
)
from tests.support.eventually import eventually
from tests.support.server import Server


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def test_output_is_read_by_offset_limit_and_last_lines(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("printf 'one\\ntwo\\nthree\\n'; printf err >&2; read go",
                                       stdin="pipe"))  # fmt: skip
    until_output(client, agent.id, b"three\n")

    def read(**params: int) -> tuple[bytes, int, int, int]:
        chunk = client.agent.output(id=agent.id, **params)
        return chunk.data, chunk.offset, chunk.next_offset, chunk.total

    assert read() == (b"one\ntwo\nthree\n", 0, 14, 14)
    assert read(offset=4, limit=3) == (b"two", 4, 7, 14)
    assert read(tail=1) == (b"three\n", 8, 14, 14)
    assert read(tail=2, limit=4) == (b"two\n", 4, 8, 14)
    assert read(tail=0) == (b"", 14, 14, 14)
    assert read(tail=100)[0] == b"one\ntwo\nthree\n"
    assert read(offset=1000) == (b"", 1000, 1000, 14)
    assert eventually(lambda: output(client, agent.id, "stderr")) == b"err"
    assert not client.agent.output(id=agent.id, offset=14).eof
    client.agent.kill(id=agent.id)
    assert eventually(lambda: client.agent.output(id=agent.id, offset=14).eof)
    assert not client.agent.output(id=agent.id, limit=5).eof


def test_follow_brings_three_megabytes_of_both_streams_byte_for_byte(client: Client) -> None:
    script = (
        "import os, random\n"
        "source = random.Random(7)\n"
        "for _ in range(375):\n"
        "    for fd in (1, 2):\n"
        "        block = source.randbytes(4096)\n"
        "        while block: block = block[os.write(fd, block):]\n"
    )
    agent = client.agent.spawn(spec=python(script))
    found = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
    reached = {"stdout": 0, "stderr": 0}
    last: dict[str, OutputChunk] = {}

    with client.agent.follow(id=agent.id) as stream:
        for chunk in stream:
            assert chunk.offset == reached[chunk.stream]
            found[chunk.stream].update(chunk.data)
            reached[chunk.stream] = chunk.next_offset
            last[chunk.stream] = chunk

    for name in ("stdout", "stderr"):
        assert reached[name] == 375 * 4096
        whole = output(client, agent.id, "stdout" if name == "stdout" else "stderr")
        assert found[name].digest() == hashlib.sha256(whole).digest()
    assert len(output(client, agent.id) + output(client, agent.id, "stderr")) == 3_072_000


def test_follow_begins_at_an_offset_or_with_the_last_lines_and_ends_early(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("printf 'one\\ntwo\\nthree\\n'; read go; echo four",
                                       stdin="pipe"))  # fmt: skip
    until_output(client, agent.id, b"three\n")
    with client.agent.follow(id=agent.id, streams=["stdout"], tail=1) as stream:
        first = next(stream)
    with client.agent.follow(id=agent.id, streams=["stdout"], tail=2) as stream:
        parts = [next(stream).data]
        client.agent.close_stdin(id=agent.id)
        parts.extend(chunk.data for chunk in stream)

    assert (first.data, first.offset) == (b"three\n", 8)
    assert b"".join(parts) == b"two\nthree\nfour\n"


def test_old_output_is_dropped_and_offsets_never_move(
    client: Client, shared_server: Server
) -> None:
    limit = 65_536
    agent = client.agent.spawn(spec=sh("seq -f %09.0f 100000", limits=Limits(output_bytes=limit)))
    client.agent.wait(id=agent.id)
    eventually(lambda: client.agent.output(id=agent.id, offset=1 << 30).eof)
    written = b"".join(b"%09d\n" % number for number in range(1, 100_001))
    file = shared_server.directory / "state" / "output" / f"{agent.id}.stdout"

    kept = output(client, agent.id)
    chunk = client.agent.output(id=agent.id, offset=0)

    assert chunk.total == len(written) == file.stat().st_size
    assert chunk.offset == chunk.truncated_before == len(written) - len(kept)
    assert limit // 4 <= len(kept) <= limit
    assert written.endswith(kept)
    assert file.stat().st_blocks * 512 <= limit + 4096
    assert client.agent.get(id=agent.id).output.stdout.truncated_before == chunk.offset


def test_stdin_is_written_in_any_length_and_closed(client: Client) -> None:
    data = bytes(range(256)) * 2000
    agent = client.agent.spawn(spec=spec("cat", stdin="pipe"))

    written = client.write(agent.id, data)
    client.agent.close_stdin(id=agent.id)

    assert written.accepted == len(data)
    assert client.agent.wait(id=agent.id).state == "completed"
    assert output(client, agent.id) == data
    with pytest.raises(ConflictError) as caught:
        client.agent.write(id=agent.id, data=b"more")
    assert (caught.value.details or {})["state"] == "completed"
    client.agent.close_stdin(id=agent.id)


def test_writer_sends_each_byte_once_and_leaves_no_hole(client: Client) -> None:
    agent = client.agent.spawn(spec=spec("cat", stdin="pipe"))

    def write(data: bytes, offset: int) -> tuple[int, int | None]:
        written = client.agent.write(id=agent.id, data=data, writer="writer-1", offset=offset)
        return written.accepted, written.offset

    assert write(b"abc", 0) == (3, 3)
    assert write(b"abc", 0) == (3, 3)
    assert write(b"bcdef", 1) == (5, 6)
    with pytest.raises(ConflictError, match="leaves a hole"):
        write(b"x", 8)
    with pytest.raises(InvalidArgumentError, match="offset"):
        client.agent.write(id=agent.id, data=b"x", offset=0)
    assert client.agent.write(id=agent.id, data=b"-").accepted == 1
    assert until_output(client, agent.id, b"-") == b"abcdef-"


def test_write_to_an_agent_that_does_not_read_would_block_and_goes_on_later(
    client: Client,
) -> None:
    agent = client.agent.spawn(spec=sh("cat | wc -c", stdin="pipe"))
    client.agent.pause(id=agent.id)
    data = b"\n" * 1_000_000

    with pytest.raises(WouldBlockError) as caught:
        client.write(agent.id, data, deadline_s=0.3)
    accepted = (caught.value.details or {})["accepted"]
    client.agent.resume(id=agent.id)
    client.write(agent.id, data[accepted:])
    client.agent.close_stdin(id=agent.id)

    assert caught.value.retryable
    assert 0 < accepted <= 400_000
    client.agent.wait(id=agent.id)
    assert int(output(client, agent.id)) == len(data)


def test_agent_without_a_pipe_has_no_stdin(client: Client) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))

    with pytest.raises(ConflictError, match="stdin is neither a pipe nor a terminal"):
        client.agent.write(id=agent.id, data=b"x")
