"""Attaching to agents through the client libraries, and from a command whose ends are pipes."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator

import pytest

from descartesd.client import AsyncClient, Attachment, Client
from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from descartesd.wire.agent import AgentInfo, Restart, Tty
from tests.support.agents import SLEEP, left_empty, output, python, sh, spec, until_output
from tests.support.eventually import eventually
from tests.support.server import BIN, Server

TTY = {"rows": 24, "cols": 80}


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client(wait_for_server_s=30) as client, left_empty(client):
        yield client


@pytest.fixture
def other(shared_server: Server) -> Iterator[Client]:
    """Another client of the administrator's."""
    with shared_server.client(wait_for_server_s=30) as client:
        yield client


def read_until(attachment: Attachment, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        data += next(attachment).data
    return data


def cat(client: Client) -> AgentInfo:
    return client.agent.spawn(spec=spec("cat", name="a", stdin="pipe"))


def test_one_writes_and_any_number_look_on(client: Client, other: Client) -> None:
    agent = cat(client)

    with client.attach(agent.id) as writer, other.attach(agent.id, watch=True) as watcher:
        next(writer)
        with pytest.raises(ConflictError, match="agent 'a' is being written to by admin") as denied:
            next(other.attach(agent.id))
        with pytest.raises(InvalidArgumentError):
            watcher.write(b"no")
        assert writer.write(b"one\n").accepted == 4
        # The pen is for those who attach; others may write as ever.
        other.write(agent.id, b"two\n")
        assert read_until(writer, b"two\n") == read_until(watcher, b"two\n") == b"one\ntwo\n"

    assert denied.value.details == {"holder": "admin"}


def test_pen_can_be_stolen_and_is_free_once_it_is_put_down(client: Client, other: Client) -> None:
    agent = cat(client)
    with client.attach(agent.id) as writer:
        next(writer)
        with other.attach(agent.id, steal=True) as thief:
            next(thief)
            with pytest.raises(ConflictError, match="admin has taken over agent 'a'"):
                for _ in writer:
                    pass
            thief.write(b"mine\n")
            assert read_until(thief, b"mine\n") == b"mine\n"
        # On the same connection it is put down by then.
        with other.attach(agent.id) as again:
            assert read_until(again, b"mine\n") == b"mine\n"


def test_writer_takes_its_own_pen_over_from_a_connection_nobody_has_missed_yet(
    client: Client, other: Client
) -> None:
    agent = cat(client)
    with client.agent.attach(id=agent.id, writer="the-same-one") as lost:
        next(lost)
        with other.agent.attach(id=agent.id, writer="the-same-one") as found:
            assert next(found).offset == 0
            with pytest.raises(ConflictError):
                for _ in lost:
                    pass


def test_pen_is_put_down_when_the_connection_is_lost(shared_server: Server, client: Client) -> None:
    agent = cat(client)
    leaver = shared_server.client()
    next(leaver.attach(agent.id))
    leaver.close()

    def takes_it() -> bool:
        try:
            with client.attach(agent.id) as writer:
                return bool(next(writer).stream)
        except ConflictError:
            return False

    assert eventually(takes_it)


def test_attachment_goes_on_where_it_was_after_crashes(
    server: Server,
) -> None:
    script = (
        "import sys, time\n"
        "for n in range(60000):\n"
        "    print(n, flush=n % 50 == 0)\n"
        "    if n % 500 == 0: time.sleep(0.01)\n"
        "sys.stdout.flush()\n"
        "print(sys.stdin.readline())\n"
    )
    with server.client(wait_for_server_s=30) as client:
        agent = client.agent.spawn(spec=python(script, stdin="pipe"))
        pieces: dict[int, bytes] = {}
        with client.attach(agent.id) as writer:
            first = next(writer)
            for chunk in writer:
                pieces[chunk.offset] = chunk.data if chunk.stream == "stdout" else b""
                if len(pieces) in (3, 6):
                    server.crash_and_restart()
                if b"59999" in chunk.data:
                    writer.write(b"bye\n")
        whole = output(client, agent.id)

    assert b"".join(data for _, data in sorted(pieces.items())) == whole[first.offset :]
    assert whole.endswith(b"59999\nbye\n\n")


def test_last_screenful_comes_first_with_the_modes_before_it(client: Client) -> None:
    script = r"printf '\033[?1049h\033[?1h'; seq 1 40000; printf '\033[H\033[2Jhere'; exec sleep 60"
    agent = client.agent.spawn(spec=sh(script, tty=TTY))
    until_output(client, agent.id, b"here")

    with client.attach(agent.id, watch=True) as watcher:
        start = next(watcher)

        assert (start.data, start.modes) == (b"", b"\x1b[?1049h\x1b[?1h")
        assert next(watcher).data == b"\x1b[H\x1b[2Jhere"


def test_size_can_be_changed_and_a_redraw_is_noticed(client: Client) -> None:
    agent = client.agent.spawn(
        spec=sh("trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done", tty=TTY)
    )
    with client.attach(agent.id) as writer:
        read_until(writer, b"ready\r\n")

        writer.resize(30, 100)
        assert read_until(writer, b"30 100\r\n")
        writer.redraw(30, 100)
        assert read_until(writer, b"30 100\r\n")
    client.agent.kill(id=agent.id)
    assert client.agent.respawn(id=agent.id).spec.tty == Tty(rows=30, cols=100)

    piped = client.agent.spawn(spec=spec(*SLEEP))
    with pytest.raises(ConflictError, match="has no terminal"):
        client.agent.resize(id=piped.id, rows=1, cols=1)


def test_attachment_lasts_over_restarts_by_the_policy(
    shared_server: Server, client: Client
) -> None:
    restart = Restart(policy="on-failure", delay_s=0.1, max_restarts=1)
    client.agent.spawn(spec=sh("sleep 0.3; echo again; exit 4", name="a", restart=restart, tty=TTY))

    done = shared_server.ctl("agent", "attach", "a", stdin=b"")

    assert (done.stdout, done.returncode) == (b"again\r\n" * 2, 1)
    assert done.stderr.startswith(b"attached to a\na: failed, ")


def test_asyncio_has_the_same(shared_server: Server, client: Client) -> None:
    agent = client.agent.spawn(spec=spec("cat", tty=TTY))

    async def session() -> bytes:
        data = b""
        async with AsyncClient(str(shared_server.admin)) as own, own.attach(agent.id) as writer:
            async for chunk in writer:
                data += chunk.data
                if not data:
                    await writer.redraw(20, 60)
                    await writer.write(b"hello\n\x04")
        return data

    assert asyncio.run(session()) == b"hello\r\nhello\r\n"
    assert client.agent.wait(id=agent.id).state == "completed"


def test_attaching_needs_an_operator_and_an_agent(shared_server: Server, client: Client) -> None:
    agent = cat(client)
    with shared_server.client(shared_server.issue("looker", "observer")) as looker:
        with pytest.raises(PermissionDeniedError):
            next(looker.attach(agent.id, watch=True))
        with pytest.raises(PermissionDeniedError):
            looker.agent.resize(id=agent.id, rows=24, cols=80)
    with pytest.raises(NotFoundError):
        next(client.attach("nobody"))


def test_command_forwards_a_pipe_until_its_end(shared_server: Server, client: Client) -> None:
    client.agent.spawn(spec=sh("read a; read b; echo $b$a; echo $a >&2; exit 3", name="a",
                               stdin="pipe"))  # fmt: skip

    done = shared_server.ctl("agent", "attach", "a", stdin=b"one\ntwo\n")

    assert (done.stdout, done.returncode) == (b"twoone\n", 1)
    assert done.stderr == b"attached to a\none\na: failed, exit 3\n"


def test_command_shows_an_agent_without_stdin_and_a_terminal_without_one(
    shared_server: Server, client: Client
) -> None:
    client.agent.spawn(spec=sh("sleep 0.2; echo done", name="a"))
    client.agent.spawn(spec=sh("sleep 0.2; stty size", name="b", tty=TTY))

    piped = shared_server.ctl("agent", "attach", "a", stdin=b"nobody reads this\n")
    terminal = shared_server.ctl("--json", "agent", "attach", "--watch", "b", stdin=b"")

    assert (piped.stdout, piped.returncode) == (b"done\n", 0)
    assert piped.stderr == b"looking on at a\na: completed, exit 0\n"
    [chunk] = map(json.loads, terminal.stdout.splitlines())
    assert (chunk["offset"], chunk["data"]) == (0, "24 80\r\n")
    assert (terminal.returncode, terminal.stderr) == (0, b"")


def test_command_reads_a_file_and_gives_up_after_its_timeout(
    shared_server: Server, client: Client
) -> None:
    agent = cat(client)
    with open("/proc/version", "rb") as file:
        done = subprocess.run(
            [
                *(BIN / "descartesctl", "--profile", shared_server.admin),
                *("--timeout", "1", "agent", "attach", "a"),
            ],
            stdin=file,
            capture_output=True,
            timeout=20,
            check=False,
        )

    assert done.returncode == 6
    with open("/proc/version", "rb") as file:
        assert done.stdout == file.read() == output(client, agent.id)


def test_terminal_of_an_agent_is_read_and_written_by_the_other_commands(
    shared_server: Server, client: Client
) -> None:
    spawned = shared_server.ctl("agent", "spawn", "--name", "a", "--tty", "--", "cat")
    assert spawned.returncode == 0, spawned.stderr

    assert shared_server.ctl("agent", "write", "a", "hello\n").returncode == 0
    until_output(client, "a", b"hello\r\nhello\r\n")
    assert shared_server.ctl("agent", "logs", "--tail", "1", "a").stdout == b"hello\r\n"
    assert shared_server.ctl("agent", "write", "a", "--eof").returncode == 0

    assert client.agent.wait(id="a").state == "completed"
    assert shared_server.ctl("agent", "logs", "-f", "a").stdout == b"hello\r\nhello\r\n"
    assert shared_server.ctl("agent", "attach", "a").stderr.endswith(b"a: completed, exit 0\n")
