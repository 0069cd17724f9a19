"""Faults 62 and 72 from the server's side: told to stop in the middle of work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from descartesd.agents.lifecycle import ENDED
from descartesd.wire.batch import Selector
from tests.faults.peers import Peer, Peers, logged
from tests.support.agents import SLEEP, all_agents, carrying, spec
from tests.support.eventually import eventually
from tests.support.server import BIN, Server

BOUND_S = 15.0


@pytest.fixture
def peers(server: Server) -> Iterator[Peers]:
    with Peers(server) as made:
        yield made


@pytest.fixture
def made() -> Iterator[Server]:
    """A server directory nobody runs yet."""
    with Server() as server:
        yield server


def told_to_stop(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)


def ended_well(server: Server, began: float) -> None:
    assert server.process is not None
    assert server.process.wait(timeout=BOUND_S) == 0
    assert time.monotonic() - began < BOUND_S
    assert len(logged(server, "server.stopped")) == 1


def rest_of(peer: Peer) -> list[dict[str, Any]]:
    """What still comes until nothing has come for a while."""
    peer.socket.rcvtimeo = 200
    found = []
    while True:
        try:
            found.append(peer.receive())
        except zmq.Again:
            return found


def test_fault_62_each_request_in_flight_gets_one_answer_or_a_lost_connection(
    server: Server, peers: Peers
) -> None:
    first = peers.connect()
    agent = first.result("agent.spawn", {"spec": {"command": list(SLEEP), "name": "one"}})
    clients = [peers.connect() for _ in range(20)]
    for number, peer in enumerate(clients):
        peer.send("agent.follow", {"id": agent["id"]}, id="follow")
        peer.send("event.follow", id="events")
        peer.send("agent.wait", {"id": agent["id"]}, id="wait")
        assert {peer.receive()["id"] for _ in range(2)} == {"follow", "events"}
        for index in range(20):
            command = {"spec": {"command": list(SLEEP)}}
            peer.send("agent.spawn", command, id=index, idem=f"{number}-{index}")
    began = time.monotonic()
    told_to_stop(server)
    ended_well(server, began)

    for peer in clients:
        messages = rest_of(peer)
        answered = Counter(
            message["id"] for message in messages if "result" in message or "error" in message
        )
        assert set(answered.values()) <= {1}
        assert answered["wait"] == 1
        assert all(message["error"]["retryable"] for message in messages if "error" in message), (
            messages
        )
        by_id = {message["id"]: message for message in messages}
        assert by_id["follow"].get("end") or by_id["follow"]["error"]
        assert by_id["events"]["error"]["code"] == "unavailable"


def test_fault_62_while_agents_end_reads_are_answered_and_changes_refused(
    server: Server, peers: Peers
) -> None:
    peer = peers.connect()
    agent = peer.result(
        "agent.spawn",
        {
            "spec": {
                "command": ["sh", "-c", "trap '' TERM; echo set; while :; do sleep 0.1; done"],
                "stop": {"grace_s": 1.5},
            }
        },
    )
    eventually(lambda: peer.result("agent.output", {"id": agent["id"]})["data"] == b"set\n")
    began = time.monotonic()
    told_to_stop(server)
    eventually(lambda: peer.result("server.health")["draining"])

    refused = peer.ask("agent.spawn", {"spec": {"command": ["true"]}})["error"]
    assert (refused["code"], refused["retryable"]) == ("unavailable", True)
    assert "the server is stopping" in refused["message"]
    assert peer.refusal("agent.kill", {"id": agent["id"]}) == "unavailable"
    assert peer.result("agent.get", {"id": agent["id"]})["id"] == agent["id"]
    assert peer.result("agent.wait", {"id": agent["id"]})["state"] == "terminated"
    ended_well(server, began)


def test_fault_62_a_drained_server_that_stops_says_that_it_stops(
    server: Server, peers: Peers
) -> None:
    peer = peers.connect()
    peer.result(
        "agent.spawn",
        {
            "spec": {
                "command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
                "stop": {"grace_s": 1.0},
            }
        },
    )
    assert peer.result("server.drain")["draining"]
    began = time.monotonic()
    told_to_stop(server)
    spawn = {"spec": {"command": ["true"]}}
    eventually(lambda: "stopping" in peer.ask("agent.spawn", spawn)["error"]["message"])
    ended_well(server, began)


def test_fault_72_told_to_stop_amid_a_burst_of_spawns_it_leaves_no_orphan(
    server: Server, peers: Peers
) -> None:
    burst = {"BURST": str(server.root)}
    command = {"spec": {"command": list(SLEEP), "env": burst}}
    clients = [peers.connect() for _ in range(4)]
    for number, peer in enumerate(clients):
        for index in range(50):
            peer.send("agent.spawn", command, id=index, idem=f"{number}-{index}")
    answers = [clients[0].receive()]
    began = time.monotonic()
    told_to_stop(server)
    ended_well(server, began)

    assert carrying("BURST", str(server.root)) == []
    answers += [message for peer in clients for message in rest_of(peer)]
    spawned = [answer["result"] for answer in answers if "result" in answer]
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert spawned
    assert all(error["retryable"] for error in refused), refused
    server.start()
    with server.client() as client:
        known = {agent.id: agent for agent in all_agents(client)}
        assert {known[each["id"]].state for each in spawned if each["state"] != "queued"} <= ENDED
        # Who had not had its turn has it now, or waits on.
        assert {agent.state for agent in known.values()} <= ENDED | {"queued", "running"}
        assert client.server.health().reasons == []
        client.batch.run(verb="kill", select=Selector(all=True))
        assert {agent.state for agent in all_agents(client)} <= ENDED
    assert carrying("BURST", str(server.root)) == []


def test_fault_72_readers_and_clients_that_vanish_do_not_end_it(server: Server) -> None:
    with Peers(server) as peers:
        for number in range(20):
            peers.connect().send("agent.list", {}, id=number)
    with socket.create_connection(("127.0.0.1", server.port)):
        pass
    with server.client() as client:
        assert client.server.health().status == "ok"


def test_fault_72_a_reader_of_the_log_that_vanishes_does_not_end_it(made: Server) -> None:
    reader, writer = os.pipe()
    made.process = subprocess.Popen(
        [BIN / "descartesd", "--config", made.config],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        env=made.environ,
    )
    os.close(writer)
    made.wait_until_serving()
    os.close(reader)
    with made.client() as client:
        agent = client.agent.spawn(spec=spec("true"))
        assert client.agent.wait(id=agent.id).state == "completed"
    assert made.stop() == 0
