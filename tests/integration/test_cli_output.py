"""Sessions with descartesctl: output read and followed, input written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from subprocess import PIPE, CompletedProcess, Popen

import psutil
import pytest

from tests.support.eventually import eventually
from tests.support.server import BIN, Server

Ctl = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def ctl(shared_server: Server) -> Iterator[Ctl]:
    """Run descartesctl; afterwards every agent is gone."""
    yield shared_server.ctl
    with shared_server.client() as client:
        for agent in client.agent.list().agents:
            client.agent.kill(id=agent.id)
            client.agent.remove(id=agent.id)


def begin(server: Server, *words: str) -> Popen[bytes]:
    """Start descartesctl and leave it running."""
    return Popen(
        [BIN / "descartesctl", "--profile", server.admin, *words],
        stdout=PIPE,
        stderr=PIPE,
        env=server.environ,
    )


def finish(running: Popen[bytes]) -> tuple[bytes, bytes, int]:
    out, err = running.communicate(timeout=20)
    return out, err, running.returncode


def shell(ctl: Ctl, script: str, *options: str) -> None:
    done = ctl("agent", "spawn", "--name", "a", *options, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr.decode()


def state(ctl: Ctl) -> str:
    return str(json.loads(ctl("--json", "agent", "show", "a").stdout)["state"])


def test_logs_are_verbatim_and_each_stream_goes_to_its_own(ctl: Ctl) -> None:
    shell(ctl, r"printf '\000\377out'; printf 'err\n' >&2")
    ctl("agent", "wait", "a")

    both = ctl("agent", "logs", "a")
    only = ctl("agent", "logs", "--stream", "stderr", "a")

    assert (both.stdout, both.stderr, both.returncode) == (b"\x00\xffout", b"err\n", 0)
    assert (only.stdout, only.stderr) == (b"", b"err\n")


def test_logs_begin_at_an_offset_or_with_the_last_lines(ctl: Ctl) -> None:
    shell(ctl, "printf '1\n2\n3\n'")
    ctl("agent", "wait", "a")

    assert ctl("agent", "logs", "--offset", "2", "a").stdout == b"2\n3\n"
    assert ctl("agent", "logs", "--tail", "1", "a").stdout == b"3\n"
    assert ctl("agent", "logs", "--tail", "0", "a").stdout == b""
    assert ctl("agent", "logs", "-f", "--tail", "2", "a").stdout == b"2\n3\n"
    assert ctl("agent", "logs", "-f", "--offset", "4", "a").stdout == b"3\n"
    assert ctl("agent", "logs", "--offset", "1", "--tail", "1", "a").returncode == 2


def test_logs_as_json_are_a_line_for_each_chunk(ctl: Ctl) -> None:
    shell(ctl, r"printf 'hello'; printf '\377' >&2")
    ctl("agent", "wait", "a")

    for words in (["agent", "logs"], ["agent", "logs", "-f"]):
        done = ctl("--json", *words, "a")
        chunks = {line["stream"]: line for line in map(json.loads, done.stdout.splitlines())}
        times = [chunk.pop("time") for chunk in chunks.values()]

        assert chunks == {
            "stdout": {"stream": "stdout", "offset": 0, "data": "hello"},
            "stderr": {"stream": "stderr", "offset": 0, "data_base64": "/w=="},
        }
        assert all(time > 1.6e9 for time in times)
        assert done.stderr == b""


def test_text_as_json_is_text_wherever_a_chunk_ends(ctl: Ctl) -> None:
    shell(ctl, "printf x; yes '€uro' | head -c 700000")
    ctl("agent", "wait", "a")
    expected = ("x" + "€uro\n" * 100_000).encode()

    for words in (["agent", "logs"], ["agent", "logs", "-f"]):
        done = ctl("--json", *words, "a")
        chunks = [json.loads(line) for line in done.stdout.splitlines()]

        data = b""
        for chunk in chunks:
            assert chunk["offset"] == len(data)
            data += chunk["data"].encode()
        assert len(chunks) > 2
        assert data == expected


def test_logs_may_be_only_the_lines_an_expression_is_found_in(ctl: Ctl) -> None:
    shell(ctl, r"printf 'one\ntwo\nthree\n'; printf 'oh\nno\n' >&2")
    ctl("agent", "wait", "a")

    for words in (["--grep", "o$"], ["-f", "--grep", "o$"]):
        done = ctl("agent", "logs", *words, "a")
        assert (done.stdout, done.stderr) == (b"two\n", b"no\n")
    done = ctl("--json", "agent", "logs", "--grep", "^t", "--stream", "stdout", "a")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["offset"], line["data"]) for line in lines] == [(4, "two\n"), (8, "three\n")]
    wrong = ctl("agent", "logs", "--grep", "(", "a")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"error: regex: missing ): (\n")


def test_logs_of_much_output_are_searched_whole(ctl: Ctl) -> None:
    shell(ctl, "seq 1 2000000", "--output-bytes", "20M")
    ctl("agent", "wait", "a")

    assert ctl("agent", "logs", "--grep", "99999$", "a").stdout == b"".join(
        b"%d\n" % n for n in range(99_999, 2_000_000, 100_000)
    )


def test_logs_begin_at_a_time_and_may_tell_times(ctl: Ctl) -> None:
    shell(ctl, r"printf 'one\ntwo'; echo bad >&2; exec sleep 60")
    eventually(lambda: ctl("agent", "logs", "a").stderr == b"bad\n")

    stamped = ctl("agent", "logs", "--timestamps", "a")
    bad = ctl("agent", "logs", "--timestamps", "--grep", "bad", "a")

    line = rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    assert re.fullmatch(line + b"one\n" + line + b"two", stamped.stdout)
    assert re.fullmatch(line + b"bad\n", stamped.stderr)
    assert (bad.stdout, bad.stderr) == (b"", stamped.stderr)
    for since in ("10m", "2020-01-01T00:00:00Z", "1600000000"):
        assert ctl("agent", "logs", "--since", since, "a").stdout == b"one\ntwo"
    assert ctl("agent", "logs", "--since", "2999-01-01", "a").stdout == b""
    assert ctl("agent", "logs", "--since", "then", "a").returncode == 2


def test_more_output_than_one_reply_holds_is_read_whole(ctl: Ctl) -> None:
    shell(ctl, "seq 1 200000")
    ctl("agent", "wait", "a")
    expected = "".join(f"{n}\n" for n in range(1, 200001)).encode()

    assert ctl("agent", "logs", "a").stdout == expected
    assert ctl("agent", "logs", "-f", "a").stdout == expected


def test_logs_of_a_running_agent_end_with_what_is_there(ctl: Ctl, shared_server: Server) -> None:
    shell(ctl, "echo ready; sleep 60")
    eventually(lambda: ctl("agent", "logs", "a").stdout == b"ready\n")


def test_followed_spawn_prints_as_it_comes_and_has_the_agents_success_as_status(
    ctl: Ctl, shared_server: Server
) -> None:
    running = begin(
        shared_server, "agent", "spawn", "--follow", "--name", "a", "--stdin", "--",
        "sh", "-c", "echo first; read word; echo $word >&2; exit 3",
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == b"first\n"

    ctl("agent", "write", "a", "second\n")

    assert finish(running) == (b"", b"second\na: failed, exit 3\n", 1)
    assert ctl("agent", "spawn", "--follow", "--", "echo", "x").returncode == 0


def test_followed_spawn_as_json_ends_with_the_agent(ctl: Ctl) -> None:
    done = ctl("--json", "agent", "spawn", "--follow", "--name", "a", "--", "sh", "-c", "echo x")
    waited = ctl("--json", "agent", "wait", "a")

    chunk, last = done.stdout.splitlines(keepends=True)
    assert json.loads(chunk)["data"] == "x\n"
    assert last == waited.stdout
    assert (done.stderr, done.returncode) == (b"", 0)


def test_logs_tell_how_much_of_the_beginning_is_gone(ctl: Ctl) -> None:
    shell(ctl, "seq 1 100000", "--output-bytes", "64K")
    ctl("agent", "wait", "a")
    shown = json.loads(ctl("--json", "agent", "show", "a").stdout)["output"]["stdout"]
    gone = shown["truncated_before"]
    told = f"the first {gone} bytes of stdout were dropped: more was written than is kept\n"

    for words in ([], ["-f"], ["--timestamps"], ["--grep", "9"]):
        done = ctl("agent", "logs", *words, "a")
        assert done.stderr.decode() == told
        assert ctl("--quiet", "agent", "logs", *words, "a").stderr == b""
        assert ctl("--json", "agent", "logs", *words, "a").stderr == b""
    assert gone > 0
    assert ctl("agent", "logs", "--tail", "1", "a").stderr == b""


def test_followed_logs_go_on_over_a_crash_of_the_server(server: Server) -> None:
    server.ctl(
        "agent", "spawn", "--name", "a", "--stdin", "--",
        "sh", "-c", "echo one; read word; echo $word; read word; echo $word",
    )  # fmt: skip
    running = begin(server, "agent", "logs", "-f", "a")
    waiting = begin(server, "agent", "wait", "a")
    assert running.stdout is not None
    assert running.stdout.readline() == b"one\n"
    with server.client() as client:
        # Both commands, and who looks.
        eventually(lambda: client.server.stats().clients == 3)

    server.kill()
    server.start()
    server.ctl("agent", "write", "a", "two\nthree\n")

    out, err, status = finish(running)
    assert (out, status) == (b"two\nthree\n", 0)
    assert err.decode().splitlines() == [
        f"the connection to '{server.endpoint}' was lost; waiting for it",
        f"connected to '{server.endpoint}' again",
    ]
    out, err, status = finish(waiting)
    assert (err, status) == (b"", 0)
    assert b"completed" in out


@pytest.mark.parametrize(
    "words",
    [
        ["agent", "logs", "-f", "a"],
        ["agent", "wait", "a"],
        ["agent", "spawn", "--follow", "--name", "a", "--", "sh", "-c", "echo ready; sleep 60"],
        ["agent", "spawn", "--wait", "--name", "a", "--", "sh", "-c", "echo ready; sleep 60"],
    ],
    ids=lambda words: "-".join(words[1:3]),
)
def test_interrupt_ends_the_command_and_leaves_the_agent(
    words: list[str], ctl: Ctl, shared_server: Server
) -> None:
    if "spawn" not in words:
        shell(ctl, "echo ready; sleep 60")
    running = begin(shared_server, *words)
    if "wait" in words or "--wait" in words:
        eventually(lambda: b"ready" in ctl("agent", "logs", "a").stdout)
        eventually(lambda: _is_connected(running, shared_server))
    else:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"

    running.send_signal(signal.SIGINT)

    out, err, status = finish(running)
    assert (out, status) == (b"", 130)
    assert err.startswith(b"a goes on; ") if "spawn" in words else err == b""
    assert state(ctl) == "running"


def _is_connected(running: Popen[bytes], server: Server) -> bool:
    connections = psutil.Process(running.pid).net_connections("tcp")
    return any(each.raddr and each.raddr.port == server.port for each in connections)


def test_reader_that_went_away_ends_a_followed_spawn_quietly(
    ctl: Ctl, shared_server: Server
) -> None:
    # Not so fast that output has to be dropped, of which it would tell.
    words = ("sh", "-c", "while echo y; do sleep 0.01; done")
    running = begin(shared_server, "agent", "spawn", "--follow", "--name", "a", "--", *words)
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.read(4) == b"y\ny\n"

    running.stdout.close()

    assert running.wait(timeout=20) == 141
    assert running.stderr.read() == b""
    running.stderr.close()
    assert state(ctl) == "running"


def test_text_is_written_exactly_and_eof_closes(ctl: Ctl) -> None:
    shell(ctl, "cat", "--stdin")

    first = ctl("--json", "agent", "write", "a", "no newline, ")
    second = ctl("--json", "agent", "write", "a", "grün\udcff".encode("utf-8", "surrogateescape"))
    closed = ctl("--json", "agent", "write", "--eof", "a")
    ctl("agent", "wait", "a")

    assert json.loads(first.stdout) == {"accepted": 12, "offset": 12}
    assert json.loads(second.stdout) == {"accepted": 6, "offset": 6}
    assert json.loads(closed.stdout) == {"accepted": 0, "offset": 0}
    assert ctl("agent", "logs", "a").stdout == "no newline, grün".encode() + b"\xff"
    assert ctl("agent", "write", "a").returncode == 2
    assert ctl("agent", "write", "a", "late").returncode == 7


def test_dash_writes_standard_input_whole(ctl: Ctl) -> None:
    shell(ctl, "cat", "--stdin")
    data = os.urandom(300_000)

    done = ctl("agent", "write", "a", "-", "--eof", stdin=data)
    ctl("agent", "wait", "a")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert ctl("agent", "logs", "a").stdout == data


def test_stdin_nobody_reads_is_would_block_in_the_end(ctl: Ctl) -> None:
    shell(ctl, "sleep 60", "--stdin")

    done = ctl("--json", "--timeout", "1", "agent", "write", "a", "-", stdin=b"x" * 8 * 1024 * 1024)

    assert done.returncode == 8
    assert json.loads(done.stderr)["error"]["code"] == "would_block"


def test_pipeline_of_a_shell_works(ctl: Ctl, shared_server: Server) -> None:
    shell(ctl, "seq 1 100000")
    ctl("agent", "wait", "a")

    done = subprocess.run(
        ["sh", "-c", f"{BIN}/descartesctl --profile {shared_server.admin} agent logs a | head -2"],
        capture_output=True,
        check=True,
        timeout=20,
    )

    assert (done.stdout, done.stderr) == (b"1\n2\n", b"")
