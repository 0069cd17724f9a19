"""stdin of agents: in order, once, bounded, against a real keeper."""

from __future__ import annotations

import os

import pytest

from descartesd.errors import ConflictError, InvalidArgumentError, WouldBlockError
from descartesd.keeper.stdin import BUFFER_BYTES, WRITERS_MAX, Writers
from descartesd.keeper.stdio import SMALL_PIPE_BYTES
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper, spawn_request


def test_what_is_written_arrives_and_the_end_too(keeper: Keeper) -> None:
    agent_id = keeper.spawn("cat", stdin="pipe")

    assert keeper.ask("write", agent_id=agent_id, data=b"one ") == {"accepted": 4, "offset": None}
    assert keeper.ask("write", agent_id=agent_id, data=b"two")["accepted"] == 3
    assert keeper.ask("write", agent_id=agent_id, data=b"") == {"accepted": 0, "offset": None}
    keeper.ask("close_stdin", agent_id=agent_id)
    keeper.ask("close_stdin", agent_id=agent_id)

    assert keeper.exited(agent_id)["exit_code"] == 0
    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"one two"


def test_null_stdin_is_at_its_end(keeper: Keeper) -> None:
    agent_id = keeper.run("cat")["agent_id"]

    assert keeper.out(agent_id) == b""


def test_writers_offset_drops_what_came_before(keeper: Keeper) -> None:
    agent_id = keeper.spawn("cat", stdin="pipe")

    def write(data: bytes, offset: int) -> object:
        return keeper.ask("write", agent_id=agent_id, data=data, writer="w", offset=offset)

    assert write(b"abc", 0) == {"accepted": 3, "offset": 3}
    assert write(b"abc", 0) == {"accepted": 3, "offset": 3}
    assert write(b"bcde", 1) == {"accepted": 4, "offset": 5}
    assert write(b"", 5) == {"accepted": 0, "offset": 5}
    with pytest.raises(ConflictError, match="at offset 5: offset 7 leaves a hole"):
        write(b"x", 7)
    other = keeper.ask("write", agent_id=agent_id, data=b"!", writer="v", offset=0)

    assert other == {"accepted": 1, "offset": 1}
    keeper.ask("close_stdin", agent_id=agent_id)
    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"abcde!"


def test_offsets_go_on_over_attempts(keeper: Keeper) -> None:
    request = spawn_request("head", "-c", "3", stdin="pipe")
    agent_id = keeper.spawn("head", "-c", "3", agent_id=request["agent_id"], stdin="pipe")
    keeper.ask("write", agent_id=agent_id, data=b"abc", writer="w", offset=0)
    keeper.eof(agent_id)

    keeper.ask("spawn", **{**request, "attempt": 2})
    again = keeper.ask("write", agent_id=agent_id, data=b"abcdef", writer="w", offset=0)
    keeper.eof(agent_id)

    assert again == {"accepted": 6, "offset": 6}
    assert keeper.out(agent_id) == b"abcdef"


def test_agent_that_does_not_read_blocks_only_its_writer(keeper: Keeper) -> None:
    agent_id = keeper.spawn(*PYTHON, "import time; time.sleep(60)", stdin="pipe")
    chunk = os.urandom(60_000)

    accepted = []

    def write_on() -> None:
        while True:
            accepted.append(keeper.ask("write", agent_id=agent_id, data=chunk)["accepted"])

    with pytest.raises(WouldBlockError, match="does not read its stdin"):
        write_on()

    # Each write begins a page of the pipe, so that it holds less than its size.
    assert BUFFER_BYTES + SMALL_PIPE_BYTES // 2 < sum(accepted) <= BUFFER_BYTES + SMALL_PIPE_BYTES
    assert keeper.ask("hello", version="1.0")["pid"] == keeper.process.pid


def test_refused_bytes_do_not_move_the_writers_offset(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "read go; cat > /dev/null; echo all", stdin="pipe")
    keeper.ask("pause", agent_id=agent_id)
    data = b"\n" + os.urandom(1_000_000)
    offset = 0

    def write_on() -> bool:
        nonlocal offset
        part = data[offset : offset + 60_000]
        reply = keeper.ask("write", agent_id=agent_id, data=part, writer="w", offset=offset)
        offset = reply["offset"]
        return bool(offset == len(data))

    def is_all_written() -> bool:
        try:
            return write_on()
        except WouldBlockError:
            return False

    eventually(lambda: not is_all_written() and offset > BUFFER_BYTES)
    keeper.ask("resume", agent_id=agent_id)
    eventually(is_all_written)
    keeper.ask("close_stdin", agent_id=agent_id)
    assert keeper.exited(agent_id)["exit_code"] == 0
    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"all\n"


def test_close_waits_for_what_was_taken(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "wc -c", stdin="pipe")
    keeper.ask("pause", agent_id=agent_id)
    accepted = 0
    for _ in range(4):
        accepted += keeper.ask("write", agent_id=agent_id, data=bytes(50_000))["accepted"]

    keeper.ask("close_stdin", agent_id=agent_id)
    with pytest.raises(ConflictError, match="stdin is closed"):
        keeper.ask("write", agent_id=agent_id, data=b"x")
    keeper.ask("resume", agent_id=agent_id)
    keeper.eof(agent_id)

    assert int(keeper.out(agent_id)) == accepted == 200_000


def test_agent_that_closes_its_stdin_is_noticed(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "exec </dev/null; echo closed; sleep 60", stdin="pipe")

    eventually(lambda: not (keeper.status(agent_id) or {})["stdin_open"])

    with pytest.raises(ConflictError, match="stdin is closed"):
        keeper.ask("write", agent_id=agent_id, data=b"x")


def test_write_needs_a_pipe_and_a_running_agent(keeper: Keeper) -> None:
    without = keeper.spawn("sleep", "60")
    ended = keeper.spawn("true", stdin="pipe")
    keeper.exited(ended)

    with pytest.raises(ConflictError, match="stdin is neither a pipe nor a terminal") as error:
        keeper.ask("write", agent_id=without, data=b"x")
    assert "--stdin or --tty" in (error.value.hint or "")
    with pytest.raises(ConflictError, match="has exited: write needs a running one"):
        keeper.ask("write", agent_id=ended, data=b"x")
    assert keeper.ask("close_stdin", agent_id=without) == {}
    assert keeper.ask("close_stdin", agent_id=ended) == {}


def test_offset_without_writer_and_writer_without_offset_are_refused(keeper: Keeper) -> None:
    agent_id = keeper.spawn("cat", stdin="pipe")

    with pytest.raises(InvalidArgumentError, match="offset: counts the bytes of a writer"):
        keeper.ask("write", agent_id=agent_id, data=b"x", offset=0)
    with pytest.raises(InvalidArgumentError, match="offset: expected an integer"):
        keeper.ask("write", agent_id=agent_id, data=b"x", writer="w")
    with pytest.raises(InvalidArgumentError, match="data: expected bytes, got str"):
        keeper.ask("write", agent_id=agent_id, data="x")


def test_the_last_writers_are_remembered_and_no_more() -> None:
    writers = Writers()
    for number in range(WRITERS_MAX):
        writers.advance(f"w{number}", 1)
    writers.advance("w0", 1)
    writers.advance("new", 1)

    assert writers.known("w0", 0) == 2
    assert writers.known("w2", 0) == 1
    assert writers.known("w1", 0) == 0
