"""Recorded bytes, sent once more: to the same connection and to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from tests.faults.peers import Keys, daemon_of, keys_of, request
from tests.support.rawcurve import RawCurve, properties
from tests.support.server import Server


@pytest.fixture
def admin(shared_server: Server) -> Keys:
    return keys_of(shared_server.admin)


@pytest.fixture
def witness(shared_server: Server, tmp_path: Path) -> Iterator[Path]:
    """A file each run of the recorded request adds a line to; nothing of it runs afterwards."""
    yield tmp_path / "runs"
    with shared_server.client() as client:
        for agent in client.agent.list(limit=1000).agents:
            client.agent.wait(id=agent.id)
            client.agent.remove(id=agent.id)


def spawn(witness: Path) -> bytes:
    """A request that can be seen to have been carried out: once for each time it was taken."""
    command = ["sh", "-c", f"echo run >> {witness}"]
    return request("agent.spawn", {"spec": {"command": command}}, id="recorded")


def runs_of(server: Server, witness: Path) -> int:
    """How often it has been carried out, once everything has ended."""
    with server.client() as client:
        agents = client.agent.list(limit=1000).agents
        for agent in agents:
            client.agent.wait(id=agent.id)
    assert len(witness.read_text().splitlines()) == len(agents)
    return len(agents)


def test_fault_08_a_message_sent_again_is_dropped_with_its_connection(
    shared_server: Server, admin: Keys, witness: Path
) -> None:
    with RawCurve.connect(shared_server.endpoint, *admin.raw) as peer:
        peer.handshake()
        recorded = peer.send(spawn(witness))
        assert "result" in msgpack.unpackb(peer.receive()[0])

        peer.send_bytes(recorded)

        assert peer.is_closed_within(2)
    assert runs_of(shared_server, witness) == 1


@pytest.mark.parametrize("back", [0, 1, 2])
def test_fault_08_a_nonce_that_has_been_used_is_dropped_whatever_it_seals(
    shared_server: Server, admin: Keys, witness: Path, back: int
) -> None:
    with RawCurve.connect(shared_server.endpoint, *admin.raw) as peer:
        peer.handshake()
        for _ in range(2):
            peer.send(request("server.hello"))
            peer.receive()
        peer.send(spawn(witness))
        peer.receive()
        # HELLO and INITIATE had 1 and 2, the requests 3 to 5.
        peer.send_frame(spawn(witness), nonce=5 - back)

        assert peer.is_closed_within(2)
    assert runs_of(shared_server, witness) == 1


def test_fault_08_an_initiate_of_another_connection_lets_nobody_in(
    shared_server: Server, admin: Keys
) -> None:
    with RawCurve.connect(shared_server.endpoint, *admin.raw) as peer:
        peer.greet()
        peer.read_greeting()
        hello = peer.hello()
        peer.welcome()
        initiate = peer.initiate(properties())
        peer.ready()

        with RawCurve.connect(shared_server.endpoint, *admin.raw) as replayed:
            replayed.greet()
            replayed.read_greeting()
            replayed.send_bytes(hello)
            replayed.read_frame()
            replayed.send_bytes(initiate)

            assert replayed.is_closed_within(2)
        peer.send(request("server.hello"))
        assert "result" in msgpack.unpackb(peer.receive()[0])


def test_fault_08_a_whole_session_sent_again_does_nothing(
    shared_server: Server, admin: Keys, witness: Path
) -> None:
    with RawCurve.connect(shared_server.endpoint, *admin.raw) as peer:
        session = [peer.greet()]
        peer.read_greeting()
        session.append(peer.hello())
        peer.welcome()
        session.append(peer.initiate(properties()))
        peer.ready()
        session.append(peer.send(spawn(witness)))
        peer.receive()

    with RawCurve.connect(shared_server.endpoint, *admin.raw) as replayed:
        replayed.send_bytes(b"".join(session))
        assert replayed.is_closed_within(2)

    assert runs_of(shared_server, witness) == 1
    assert daemon_of(shared_server).is_running()


def test_fault_08_who_repeats_itself_and_leaves_does_not_end_the_server(
    shared_server: Server, admin: Keys
) -> None:
    for _ in range(3):
        with RawCurve.connect(shared_server.endpoint, *admin.raw) as peer:
            peer.handshake()
            recorded = peer.send(request("server.hello"))
            peer.receive()
            peer.send_bytes(recorded)
            assert peer.is_closed_within(2)

    with RawCurve.connect(shared_server.endpoint, *admin.raw) as peer:
        peer.handshake()
        # Longer than any timer of a connection is set to.
        assert not peer.is_closed_within(4)
        peer.send(request("server.hello"))
        assert "result" in msgpack.unpackb(peer.receive()[0])
