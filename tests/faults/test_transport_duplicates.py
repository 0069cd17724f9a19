"""Requests sent twice: after a lost connection, a crash, or by several at once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.peers import Keys, Peer, Peers, keys_of
from tests.support.eventually import eventually
from tests.support.server import Server

SPEC = {"command": ["true"]}


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


@pytest.fixture(scope="module")
def operator(shared_server: Server) -> Keys:
    return keys_of(shared_server.issue("an-operator", "operator"))


def test_fault_31_a_duplicate_after_a_reconnect_is_answered_alike_and_done_once(
    peers: Peers, tmp_path: Path
) -> None:
    wish = once(tmp_path, "twice")
    first = peers.connect()
    answer = first.result("agent.spawn", wish, idem="key-31")
    first.close()

    again = peers.connect()

    assert again.result("agent.spawn", wish, id=9, idem="key-31") == answer
    assert named(again, "twice") == [answer["id"]]
    eventually(lambda: runs(tmp_path) == 1)
    assert again.refusal("agent.spawn", once(tmp_path, "other"), idem="key-31") == "conflict"
    signal = {"id": "twice", "signal": "KILL"}
    assert again.refusal("agent.signal", signal, idem="key-31") == "conflict"
    again.result("agent.kill", {"id": "twice"})


def test_fault_31_duplicates_on_several_connections_at_once_are_done_once(
    peers: Peers, tmp_path: Path
) -> None:
    wish = once(tmp_path, "crowd")
    crowd = [peers.connect() for _ in range(10)]
    for peer in crowd:
        peer.result("server.hello")

    for number, peer in enumerate(crowd):
        peer.send("agent.spawn", wish, id=number, idem="key-crowd")
    answers = [peer.receive() for peer in crowd]

    assert [answer["id"] for answer in answers] == list(range(10))
    assert len({answer["result"]["id"] for answer in answers}) == 1
    eventually(lambda: runs(tmp_path) == 1)


def test_fault_31_a_refusal_is_repeated_too(peers: Peers) -> None:
    wish = {"spec": {"command": ["/no/such/program"]}}

    first = peers.connect().ask("agent.spawn", wish, idem="key-refused")
    again = peers.connect().ask("agent.spawn", wish, idem="key-refused")

    assert first["error"]["code"] == "invalid_argument"
    assert again == first


def test_fault_31_a_key_belongs_to_one_identity(peers: Peers, operator: Keys) -> None:
    mine = peers.connect().result("agent.spawn", {"spec": SPEC}, idem="key-shared")
    theirs = peers.connect(operator).result("agent.spawn", {"spec": SPEC}, idem="key-shared")

    assert mine["id"] != theirs["id"]


def test_fault_31_a_duplicate_after_a_crash_of_the_daemon_is_answered_alike(
    server: Server, tmp_path: Path
) -> None:
    with Peers(server) as peers:
        first = peers.connect()
        answer = first.result("agent.spawn", once(tmp_path, "before"), idem="answered")
        first.send("agent.spawn", once(tmp_path, "unheard"), id=2, idem="unheard")
        eventually(lambda: runs(tmp_path) == 2)

        server.crash_and_restart()

        again = peers.connect()
        repeated = again.result("agent.spawn", once(tmp_path, "before"), idem="answered")
        unheard = again.result("agent.spawn", once(tmp_path, "unheard"), idem="unheard")
        assert (repeated["id"], repeated["pid"]) == (answer["id"], answer["pid"])
        assert unheard["name"] == "unheard"
        assert again.result("agent.list")["total"] == 2
        assert runs(tmp_path) == 2


def test_fault_31_a_signal_cut_short_by_a_crash_is_not_sent_again(server: Server) -> None:
    wish = {"id": "counter", "signal": "USR1"}
    script = "trap 'echo got' USR1; echo ready; while :; do sleep 0.02; done"
    spec = {"command": ["sh", "-c", script], "name": "counter"}
    assert server.keeper_pid is not None
    keeper = psutil.Process(server.keeper_pid)

    with Peers(server) as peers:
        first = peers.connect()
        first.result("agent.spawn", {"spec": spec})
        eventually(lambda: b"ready" in written(first, "counter"))
        keeper.suspend()
        first.send("agent.signal", wish, id="s", idem="signal-once")
        eventually(lambda: begun(server, "signal-once"))
        server.kill()
        keeper.resume()
        server.start()

        again = peers.connect()
        answer = again.ask("agent.signal", wish, idem="signal-once")
        again.result("agent.stop", {"id": "counter"})

        assert written(again, "counter").count(b"got") <= 1
        assert answer.get("error", {}).get("code") == "aborted"


def begun(server: Server, key: str) -> bool:
    """Whether the registry says that the work under a key has begun."""
    registry = server.directory / "state" / "registry.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{registry}?mode=ro", uri=True)) as db:
        return bool(db.execute("SELECT 1 FROM intents WHERE key = ?", (key,)).fetchone())


def written(peer: Peer, agent: str) -> bytes:
    data: bytes = peer.result("agent.output", {"id": agent})["data"]
    return data


def once(directory: Path, name: str) -> dict[str, Any]:
    """Parameters of an agent that notes each of its starts."""
    note = f"echo {name} >> {directory}/runs; exec sleep 60"
    return {"spec": {"command": ["sh", "-c", note], "name": name}}


def named(peer: Peer, name: str) -> list[str]:
    """Ids of the agents of that name."""
    return [a["id"] for a in peer.result("agent.list")["agents"] if a["name"] == name]


def runs(directory: Path) -> int:
    """How often agents of this test have started."""
    file = directory / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0
