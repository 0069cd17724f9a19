"""`descartesctl bench`: its numbers, its failures, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import pty
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen

import psutil
import pytest

from tests.support.eventually import eventually
from tests.support.server import BIN, Server

SMALL = ("bench", "--clients", "2", "--requests", "60", "--agents", "6", "--output", "3M")
ENDLESS = ("bench", "--clients", "2", "--requests", "0", "--agents", "100000", "--output", "0")


@contextmanager
def begun(server: Server, *words: str, stderr: int = PIPE) -> Iterator[Popen[bytes]]:
    """Run descartesctl beside a test; it does not outlive the block."""
    with Popen(
        [BIN / "descartesctl", "--profile", server.admin, *words],
        stdout=PIPE,
        stderr=stderr,
        env=server.environ,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def read_all(terminal: int) -> bytes:
    """What was written to a terminal that nobody has open any more: then reading it fails."""
    shown = b""
    with suppress(OSError):
        while True:
            shown += os.read(terminal, 65_536)
    return shown


def agents(server: Server) -> int:
    with server.client() as client:
        return client.agent.list().total


def until_agents_are_started(server: Server) -> None:
    with server.client() as client:
        eventually(lambda: client.agent.list(limit=1).total > 0)


@pytest.mark.parametrize("profile", ["admin", "local"])
def test_every_part_is_measured_and_nothing_is_left(shared_server: Server, profile: str) -> None:
    done = shared_server.ctl("--json", *SMALL, profile=getattr(shared_server, profile))

    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    parts = {part.pop("method"): part for part in told["results"]}
    assert told["ok"] is True
    assert {name: (part["clients"], part["done"]) for name, part in parts.items()} == {
        "agent.get": (2, 60),
        "agent.spawn": (2, 6),
        "agent.follow": (1, 3 << 20),
    }
    assert all(part["failed"] == 0 for part in parts.values())
    assert 0 < parts["agent.get"]["p50_ms"] <= parts["agent.get"]["p99_ms"]
    assert parts["agent.spawn"]["agents_per_second"] > 0
    assert parts["agent.follow"]["bytes_per_second"] > 0
    assert agents(shared_server) == 0


def test_people_get_a_table_and_no_bar_where_nobody_watches(shared_server: Server) -> None:
    done = shared_server.ctl(*SMALL)

    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["MEASURED", "CLIENTS", "DONE", "FAILED", "RATE", "P50", "P99"]
    assert [line.split()[0] for line in lines[1:]] == ["agent.get", "agent.spawn", "agent.follow"]
    assert done.stderr == b""


def test_a_part_of_nothing_is_left_out(shared_server: Server) -> None:
    done = shared_server.ctl("--json", "bench", "--requests", "0", "--agents", "0", "--output", "1")

    assert [part["method"] for part in json.loads(done.stdout)["results"]] == ["agent.follow"]


def test_a_bar_is_shown_on_a_terminal(shared_server: Server) -> None:
    terminal, theirs = pty.openpty()
    try:
        with begun(shared_server, *SMALL, stderr=theirs) as running:
            os.close(theirs)
            out, _ = running.communicate(timeout=30)
        shown = read_all(terminal)
    finally:
        os.close(terminal)

    assert running.returncode == 0
    assert all(word in shown for word in (b"requests", b"agents", b"output"))
    assert b"\x1b" not in out


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ended_midway_it_removes_its_agents_and_ends_its_clients(
    shared_server: Server, ending: signal.Signals
) -> None:
    with begun(shared_server, *ENDLESS) as running:
        until_agents_are_started(shared_server)
        clients = psutil.Process(running.pid).children()
        running.send_signal(ending)
        out, err = running.communicate(timeout=30)

    assert (running.returncode, out, err) == (130, b"", b"")
    assert len(clients) == 2
    assert not any(client.is_running() for client in clients)
    assert agents(shared_server) == 0


def test_who_may_not_start_agents_is_told_so(shared_server: Server) -> None:
    done = shared_server.ctl(*SMALL, profile=shared_server.issue("watcher", "observer"))

    assert done.returncode == 4
    assert b"agent.spawn" in done.stderr
    assert done.stdout == b""


def test_a_failed_request_makes_it_fail(tmp_path: Path) -> None:
    # `true`, which the measured agents run, is nowhere.
    for program in ("sleep", "head"):
        tmp_path.joinpath(program).symlink_to(f"/usr/bin/{program}")
    with Server({"server.runner.path": json.dumps([str(tmp_path)])}) as server:
        server.start()

        done = server.ctl("--json", *SMALL)

        told = json.loads(done.stdout)
        assert done.returncode == 1
        assert told["ok"] is False
        assert [part["failed"] for part in told["results"]] == [0, 2, 0]
        assert b"true" in done.stderr
        assert agents(server) == 0


def test_a_server_that_dies_midway_ends_it(server: Server) -> None:
    with begun(server, *ENDLESS, "--timeout", "2") as running:
        until_agents_are_started(server)
        server.kill()
        _, err = running.communicate(timeout=30)

    assert running.returncode == 5
    assert b"may be left" in err
