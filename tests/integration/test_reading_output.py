"""Output searched, by time and with times, over CURVE and real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import Limits, OutputChunk, StreamName
from tests.support.agents import left_empty, output, python, sh, until_output
from tests.support.eventually import eventually
from tests.support.server import Server

MEGABYTE = 1 << 20


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def ended(client: Client, script: str, **fields: Any) -> str:
    """Run a shell script as an agent to the end of its output; its id."""
    agent = client.agent.spawn(spec=sh(script, **fields))
    client.agent.wait(id=agent.id)
    eventually(lambda: client.agent.output(id=agent.id, offset=1 << 40).eof)
    return agent.id


def found(chunk: OutputChunk) -> list[tuple[int, bytes]]:
    """Each line a chunk tells, and its offset."""
    ends = [*(mark.at for mark in chunk.marks[1:]), len(chunk.data)]
    return [
        (mark.offset, chunk.data[mark.at : end])
        for mark, end in zip(chunk.marks, ends, strict=False)
    ]


def search(client: Client, agent_id: str, regex: str, **params: Any) -> list[tuple[int, bytes]]:
    """Everything a search finds, page by page."""
    lines: list[tuple[int, bytes]] = []
    offset = 0
    while True:
        chunk = client.agent.output(id=agent_id, offset=offset, regex=regex, **params)
        assert len(chunk.data) <= params.get("limit", 262_144)
        lines.extend(found(chunk))
        if chunk.next_offset == offset:
            assert chunk.eof
            return lines
        offset = chunk.next_offset


def test_search_over_twenty_megabytes_finds_every_line_once_with_its_offset(
    client: Client,
) -> None:
    # Lines of 20 bytes, so that an offset tells a number.
    agent_id = ended(
        client, "seq -f 'line %014.0f' 1000000", limits=Limits(output_bytes=32 * MEGABYTE)
    )
    wanted = [
        (20 * (number - 1), b"line %014d\n" % number)
        for number in range(1, 1_000_001)
        if number % 1000 == 777
    ]

    assert search(client, agent_id, "777$") == wanted
    assert search(client, agent_id, "777$", limit=1000, lines=30) == wanted


def test_whole_lines_are_told_by_their_number(client: Client) -> None:
    agent_id = ended(client, r"printf 'one\ntwo\nthree\nfour'")

    def read(**params: Any) -> tuple[bytes, int, bool]:
        chunk = client.agent.output(id=agent_id, **params)
        return chunk.data, chunk.next_offset, chunk.eof

    assert read(lines=2) == (b"one\ntwo\n", 8, False)
    assert read(lines=2, offset=8) == (b"three\nfour", 18, True)
    assert read(lines=9, limit=5) == (b"one\n", 4, False)
    assert read(lines=9, limit=5, offset=8) == (b"three", 13, False)
    assert read(lines=1, tail=2) == (b"three\n", 14, False)


def test_line_without_its_newline_is_told_when_the_stream_has_ended(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("printf 'one\\ntwo'; read go", stdin="pipe"))
    until_output(client, agent.id, b"two")

    before = client.agent.output(id=agent.id, regex="o")
    client.agent.close_stdin(id=agent.id)
    eventually(lambda: client.agent.output(id=agent.id, offset=7).eof)
    after = client.agent.output(id=agent.id, regex="o", offset=before.next_offset)

    assert (before.data, before.next_offset, before.eof) == (b"one\n", 4, False)
    assert (after.data, after.offset, after.next_offset, after.eof) == (b"two", 4, 7, True)


def test_output_that_is_no_text_is_searched_and_told_as_it_is(client: Client) -> None:
    agent_id = ended(client, r"printf '\377\376 one\n\000two\nb\303\274cher\ngr\377n\n'")

    assert search(client, agent_id, "one") == [(0, b"\xff\xfe one\n")]
    assert search(client, agent_id, "^.two") == [(7, b"\x00two\n")]
    assert search(client, agent_id, "b[äöü]cher") == [(12, "bücher\n".encode())]
    assert search(client, agent_id, "^gr.n$") == [(20, b"gr\xffn\n")]


def test_expression_re2_does_not_take_is_an_invalid_argument_in_its_words(
    client: Client,
) -> None:
    agent_id = ended(client, "echo one")

    with pytest.raises(InvalidArgumentError, match=r"^regex: missing \): a\("):
        client.agent.output(id=agent_id, regex="a(")
    with (
        pytest.raises(InvalidArgumentError, match=r"^regex: invalid perl operator"),
        client.agent.follow(id=agent_id, regex="(?<=a)b") as stream,
    ):
        list(stream)
    with pytest.raises(InvalidArgumentError, match="regex"):
        client.agent.output(id=agent_id, regex="x" * 1025)


def test_expensive_expression_is_answered_while_others_are_served(
    client: Client, shared_server: Server
) -> None:
    agent_id = ended(client, "yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! | head -c 8000000")

    def searched(regex: str) -> tuple[float, int]:
        began = time.monotonic()
        with shared_server.client() as other:
            chunk = other.agent.output(id=agent_id, regex=regex)
        assert chunk.data == b""
        return time.monotonic() - began, chunk.next_offset

    # The last one is no match for an automaton of bounded memory, and takes RE2's slow way.
    regexes = ["(a+)+$", "(a|aa)+$", "(.*)*b", "([a-z0-9.]{1,20}x?){25}$"]
    slowest = 0.0
    with ThreadPoolExecutor(len(regexes)) as pool:
        searches = [pool.submit(searched, regex) for regex in regexes]
        while not all(each.done() for each in searches):
            began = time.monotonic()
            client.server.health()
            client.agent.output(id=agent_id, offset=1000, limit=1000)
            slowest = max(slowest, time.monotonic() - began)

    assert slowest < 0.5
    for each in searches:
        took, next_offset = each.result()
        assert took < 8
        assert next_offset > 0


def test_output_is_read_from_a_time_on_and_with_its_times(client: Client) -> None:
    began = time.time()
    agent = client.agent.spawn(
        spec=sh("echo one; read go; echo two; read go; echo three", stdin="pipe")
    )
    until_output(client, agent.id, b"one\n")
    eventually(lambda: time.time() - began > 0.3)
    middle = time.time()
    for line in (b"two\n", b"three\n"):
        client.write(agent.id, b"go\n")
        until_output(client, agent.id, line)
    client.agent.wait(id=agent.id)

    def read(since: float, **params: Any) -> tuple[bytes, int]:
        chunk = client.agent.output(id=agent.id, since=since, **params)
        return chunk.data, chunk.offset

    assert read(began - 10) == (b"one\ntwo\nthree\n", 0)
    assert read(middle) == (b"two\nthree\n", 4)
    assert read(time.time() + 1) == (b"", 14)
    assert read(middle, regex="e") == (b"three\n", 4)
    assert client.agent.output(id=agent.id, since=began, offset=8).offset == 8
    with client.agent.follow(id=agent.id, streams=["stdout"], since=middle) as stream:
        assert b"".join(chunk.data for chunk in stream) == b"two\nthree\n"

    marks = client.agent.output(id=agent.id, timestamps=True).marks
    assert [(mark.at, mark.offset) for mark in marks][:2] == [(0, 0), (4, 4)]
    assert [mark.time for mark in marks] == sorted(mark.time or 0 for mark in marks)
    assert began - 0.01 <= (marks[0].time or 0) < middle <= (marks[1].time or 0) < time.time()
    assert client.agent.output(id=agent.id).marks == []


def test_follow_tells_found_lines_once_they_are_whole(client: Client) -> None:
    agent = client.agent.spawn(
        spec=sh("printf 'no\\nyes 1\\nye'; read go; printf 's 2\\nno\\nyes end'", stdin="pipe")
    )
    until_output(client, agent.id, b"ye")
    with client.agent.follow(
        id=agent.id, streams=["stdout"], regex="^yes", timestamps=True
    ) as stream:
        first = next(stream)
        client.agent.close_stdin(id=agent.id)
        rest = [line for chunk in stream for line in found(chunk)]

    assert found(first) == [(3, b"yes 1\n")]
    assert rest == [(9, b"yes 2\n"), (18, b"yes end")]
    assert first.marks[0].time == pytest.approx(time.time(), abs=30)


def test_follow_of_found_lines_goes_on_over_crashes_without_loss_or_duplicate(
    server: Server,
) -> None:
    lines = 400
    script = f"""
import os, time
for number in range({lines}):
    os.write(1, b"line %06d\\n" % number)
    os.write(2, b"error %06d" % number)
    time.sleep(0.005)
    os.write(2, b"\\n")
"""

    def following(agent_id: str) -> dict[StreamName, list[tuple[int, bytes]]]:
        told: dict[StreamName, list[tuple[int, bytes]]] = {"stdout": [], "stderr": []}
        with (
            server.client(wait_for_server_s=20) as other,
            other.agent.follow(id=agent_id, regex="[02468]$", since=1.0) as stream,
        ):
            for chunk in stream:
                told[chunk.stream].extend(found(chunk))
        return told

    with server.client() as client, ThreadPoolExecutor(1) as pool:
        agent = client.agent.spawn(spec=python(script))
        until_output(client, agent.id, b"line 000010\n")
        follows = pool.submit(following, agent.id)
        for line in (b"line 000060\n", b"line 000200\n"):
            until_output(client, agent.id, line)
            server.crash_and_restart()
        told = follows.result(timeout=20)
        assert len(output(client, agent.id)) == 12 * lines

    even = range(0, lines, 2)
    assert told["stdout"] == [(12 * number, b"line %06d\n" % number) for number in even]
    assert told["stderr"] == [(13 * number, b"error %06d\n" % number) for number in even]


def test_search_begins_at_the_first_byte_kept(client: Client) -> None:
    agent_id = ended(client, "seq -f %09.0f 100000", limits=Limits(output_bytes=65_536))

    chunk = client.agent.output(id=agent_id, regex="99999$")

    assert chunk.offset == chunk.truncated_before > 0
    assert found(chunk) == [(999_980, b"000099999\n")]
    assert chunk.eof
