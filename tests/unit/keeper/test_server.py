"""The control socket of a real keeper."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from descartesd.errors import InternalError, UnimplementedError
from descartesd.keeper import protocol
from descartesd.keeper.loop import Loop
from descartesd.keeper.server import Server
from tests.unit.keeper.harness import Client, Gate, Keeper


def test_new_connection_replaces_the_old(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("sleep", "60")

    with_old, keeper.client = keeper.client, Client(keeper.socket)

    assert with_old.sock.recv(1) == b""
    with_old.close()
    assert (keeper.status(agent_id) or {})["state"] == "running"


def test_unknown_operation_is_unimplemented(keeper: Keeper) -> None:
    for op in ("fly", "__class__", "_list", "", 7, None):
        with pytest.raises(UnimplementedError, match="no operation"):
            keeper.ask(op)  # type: ignore[arg-type] # what is tested


def test_unknown_fields_are_ignored(keeper: Keeper) -> None:
    assert keeper.ask("strays", colour="blue") == {"strays": []}


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\xff", id="rubbish"),
        pytest.param(b"", id="empty"),
        pytest.param(msgpack.packb([1, 2]), id="list"),
        pytest.param(msgpack.packb(7), id="number"),
        pytest.param(b"\xc1", id="body without one"),
        pytest.param(b"\x81\x01\x02", id="number as key"),
        pytest.param(b"\x91" * 9000, id="deep"),
    ],
)
def test_malformed_packet_closes_the_connection_and_nothing_else(
    make_keeper: Callable[..., Keeper], packet: bytes
) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("sleep", "60")

    keeper.client.sock.send(packet)

    assert keeper.client.sock.recv(1) == b""
    keeper.client.close()
    keeper.client = Client(keeper.socket)
    assert (keeper.status(agent_id) or {})["state"] == "running"
    keeper.ask("shutdown")
    keeper.wait()
    said = keeper.stderr()
    assert ("closed:" in said) is bool(packet)


def test_mistake_in_an_operation_is_answered_and_told_on_stderr(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("true")
    keeper.eof(agent_id)
    os.mkdir(os.path.join(keeper.output, f"{agent_id}.stdout"))

    with pytest.raises(InternalError, match="operation 'remove' met IsADirectoryError"):
        keeper.ask("remove", agent_id=agent_id)

    assert keeper.ask("strays") == {"strays": []}
    keeper.ask("shutdown")
    keeper.wait()
    assert "IsADirectoryError" in keeper.stderr()


def test_large_bodies_travel_both_ways(keeper: Keeper) -> None:
    agent_id = keeper.spawn("cat", stdin="pipe")
    data = os.urandom(200_000)

    accepted = keeper.ask("write", agent_id=agent_id, data=data)["accepted"]
    keeper.ask("close_stdin", agent_id=agent_id)
    keeper.eof(agent_id)

    assert accepted == len(data)
    assert keeper.out(agent_id) == data


def test_requests_sent_without_reading_are_all_answered(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    keeper.client.sock.settimeout(0.2)
    sent = 0
    try:
        while sent < 20_000:
            keeper.client.begin("list")
            sent += 1
    except TimeoutError:
        assert sent > 100

    keeper.client.sock.settimeout(10)
    for number in range(1, sent + 1):
        assert keeper.client.end(number) == {"agents": [], "next": None}


def test_another_user_is_turned_away(make_keeper: Callable[..., Keeper]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user to connect as")
    keeper = make_keeper()
    keeper.directory.chmod(0o755)
    os.chmod(keeper.socket, 0o666)

    child = os.fork()
    if child == 0:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(keeper.socket)
            os._exit(42 if stranger.recv(1) == b"" else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 42
    assert keeper.ask("strays") == {"strays": []}
    keeper.ask("shutdown")
    keeper.wait()
    assert "refused: its user is 65534" in keeper.stderr()


def test_facts_wait_for_room_without_being_lost(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    gate = Gate(keeper.directory)
    ids = [keeper.spawn("sh", "-c", gate.wait_there, name="n" * 3000) for _ in range(150)]

    # More than the kernel keeps for a reader that does not read.
    gate.open_until(lambda: not keeper.children())

    for agent_id in ids:
        assert keeper.exited(agent_id)["exit_code"] == 1
        assert keeper.eof(agent_id)["eof"] is True
    assert not keeper.client.events


def test_socket_is_its_owners_alone(keeper: Keeper) -> None:
    assert os.stat(keeper.socket).st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream, pytest.raises(OSError):  # noqa: PT011
        stream.connect(keeper.socket)


def test_daemon_that_dies_does_not_take_the_keeper_along(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("sleep", "60")
    script = (
        "import os, signal, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect(sys.argv[1])\n"
        "s.send(bytes.fromhex('82a2696401a26f70a46c697374'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )

    daemon = subprocess.run([sys.executable, "-c", script, keeper.socket], check=False)
    keeper.client.close()
    keeper.client = keeper.connect()

    assert daemon.returncode == -signal.SIGKILL
    assert (keeper.status(agent_id) or {})["state"] == "running"


def test_what_has_happened_is_told_before_a_later_request_is_answered(tmp_path: Path) -> None:
    class Ended:
        agent_id = "x"

        def status(self) -> dict[str, bool]:
            return {"eof": True}

    loop = Loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        server = Server(loop, listener, trusted=os.geteuid(), say=print)
        server.operations = {
            "end": lambda _: server.tell("exited", Ended()) or {},  # type: ignore[func-returns-value,arg-type]
            "leave": lambda _: loop.stop() or {},  # type: ignore[func-returns-value]
        }
        client = Client(str(tmp_path / "s"))
        # Both are served in one turn.
        client.begin("end")
        client.begin("leave")
        loop.run()
        told = [protocol.receive(client.sock) for _ in range(3)]
        client.close()
        server.close()
    loop.close()

    assert ["event" in (message or ()) for message in told] == [False, True, False]
