"""Who did what: the lines a running server writes."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import (
    DeadlineExceededError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from descartesd.wire.agent import AgentSpec
from descartesd.wire.batch import Selector
from descartesd.wire.event import Event
from tests.faults.peers import Peers, keys_of, unknown_keys
from tests.support.eventually import eventually
from tests.support.roles import params_on, running_with
from tests.support.server import Server, running

SLEEP = AgentSpec(command=["sleep", "600"], stdin="pipe")


class Log:
    """The audit log of a server, from now on."""

    def __init__(self, server: Server) -> None:
        self._file = server.directory / "state" / "audit.jsonl"
        self._after = 0
        self._after = self.lines()[-1]["seq"]

    def lines(self) -> list[dict[str, Any]]:
        found = map(json.loads, self._file.read_text().splitlines())
        return [line for line in found if line["seq"] > self._after]

    def about(self, method: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["method"] == method]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def log(server: Server) -> Log:
    return Log(server)


def use_every_verb(client: Client) -> None:
    """Change something in each way there is."""
    spec = SLEEP
    agent = client.agent.spawn(spec=spec)
    client.agent.write(id=agent.id, data=b"hello\n")
    client.agent.close_stdin(id=agent.id)
    client.agent.pause(id=agent.id)
    client.agent.resume(id=agent.id)
    client.agent.signal(id=agent.id, signal="CONT")
    client.agent.stop(id=agent.id)
    client.agent.respawn(id=agent.id)
    client.agent.kill(id=agent.id)
    client.agent.remove(id=agent.id)
    client.batch.spawn(specs=[spec, spec])
    client.batch.run(verb="pause", select=Selector(all=True))
    client.batch.run(verb="stop", select=Selector(all=True))
    client.action.run(name="echo", params={"message": "hi"})
    client.server.drain()
    client.server.drain(undo=True)


# Which lines may stand behind a state that a client has brought about.
CAUSES = {
    "starting": {"agent.spawn", "agent.respawn"},
    "paused": {"agent.pause"},
    "stopping": {"agent.stop", "agent.kill"},
    "removed": {"agent.remove"},
}


def changes(client: Client) -> list[Event]:
    """Every event about an agent so far."""
    last = client.server.hello().last_event
    found: list[Event] = []
    with client.event.follow(since=0) as stream:
        for event in stream:
            found.append(event)
            if event.seq >= last:
                break
    return [event for event in found if event.agent_id is not None]


def test_invariant_i3_every_change_by_a_client_has_a_line_with_its_identity(
    server: Server, log: Log
) -> None:
    with server.client() as client:
        me = client.server.hello().identity
        use_every_verb(client)
        events = changes(client)
    written = log.lines()
    assert {(line["identity"], line.get("certificate")) for line in written} == {
        (me.id, me.name),
    }

    done = {
        (line.get("target"), line["method"])
        for line in written
        if line["phase"] == "outcome" and line["outcome"] == "ok"
    }
    checked = set()
    for event in events:
        change = "removed" if event.kind == "removed" else event.state
        if change in CAUSES:
            checked.add(change)
            assert done & {(event.agent_id, method) for method in CAUSES[change]}, event
    assert checked == CAUSES.keys()

    intents = {line["seq"]: line["method"] for line in written if line["phase"] == "intent"}
    outcomes = [line for line in written if line["phase"] == "outcome"]
    assert {line["intent"] for line in outcomes} == intents.keys()
    assert all(line["seq"] > line["intent"] for line in outcomes)
    assert set(intents.values()) == {
        *("agent.spawn", "agent.write", "agent.close_stdin", "agent.pause", "agent.resume"),
        *("agent.signal", "agent.stop", "agent.respawn", "agent.kill", "agent.remove"),
        *("batch.spawn", "batch.run", "action.run", "server.drain"),
    }


def test_a_batch_has_one_intent_and_a_line_for_each_agent(server: Server, log: Log) -> None:
    with server.client() as client:
        made = client.batch.spawn(specs=[SLEEP, SLEEP])
        ids = [item.agent.id for item in made.results if item.agent is not None]
        client.batch.run(verb="remove", ids=[*ids, "nobody"])
        client.batch.run(verb="kill", ids=ids)
        client.batch.run(verb="remove", ids=ids)

    run = [line for line in log.lines() if line["method"] in ("batch.run", "agent.remove")]
    begun, *each, done = run[:5]
    assert (begun["phase"], begun["target"], begun["count"]) == ("intent", "agent.remove", 3)
    assert [(line["target"], line["outcome"]) for line in each] == [
        (ids[0], "conflict"),
        (ids[1], "conflict"),
        ("nobody", "not_found"),
    ]
    assert (done["outcome"], done["count"], done["failed"]) == ("ok", 0, 3)
    assert {line["intent"] for line in (*each, done)} == {begun["seq"]}
    # They are named by their ids though nobody has them any more.
    assert [line["target"] for line in run[-3:-1]] == ids


def test_reads_and_dry_runs_and_repeated_answers_leave_no_line(server: Server, log: Log) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=SLEEP, idem="once")
        before = log.lines()

        client.agent.list()
        client.agent.get(id=agent.id)
        client.server.health()
        client.batch.run(verb="stop", select=Selector(all=True), dry_run=True)
        client.batch.run(verb="get", select=Selector(all=True))
        assert client.agent.spawn(spec=SLEEP, idem="once").id == agent.id

    assert log.lines() == before


def test_an_error_is_the_outcome_of_what_failed(server: Server, log: Log) -> None:
    with server.client() as client, pytest.raises(NotFoundError):
        client.agent.stop(id="nobody")

    intent, outcome = log.about("agent.stop")
    assert intent["target"] == outcome["target"] == "nobody"
    assert outcome["outcome"] == "not_found"


def test_work_that_nobody_waits_for_any_more_is_told_as_cancelled(server: Server, log: Log) -> None:
    stubborn = AgentSpec(
        command=["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    )
    with server.client() as client:
        agent = client.agent.spawn(spec=stubborn)
        eventually(lambda: client.agent.output(id=agent.id, stream="stdout").data)
        with pytest.raises(DeadlineExceededError):
            client.agent.stop(id=agent.id, deadline_s=1.0)

    eventually(lambda: len(log.about("agent.stop")) == 2)
    assert log.about("agent.stop")[1]["outcome"] == "cancelled"


def test_fault_23_who_may_not_has_a_line_and_a_flood_of_that_has_two_a_second(
    server: Server, log: Log
) -> None:
    observer = server.issue("watcher", "observer")
    with server.client(observer) as client:
        identity = client.server.hello().identity.id
        for _ in range(200):
            with pytest.raises(PermissionDeniedError):
                client.agent.stop(id="build-7")

    def counted() -> bool:
        return sum(line.get("count", 1) for line in log.about("agent.stop")) == 200

    eventually(counted, timeout=5)
    refused = log.about("agent.stop")
    assert len(refused) < 20
    assert {
        (line["identity"], line["certificate"], line["phase"], line["outcome"]) for line in refused
    } == {(identity, "watcher", "refused", "permission_denied")}


LOOKS_AT_ITS_OWN = """
[policy.roles.seer.methods]
"agent.*" = "own"
"agent.get" = "any"
"""


@pytest.mark.parametrize("method", ["agent.output", "agent.wait", "agent.follow", "agent.attach"])
def test_fault_23_who_may_not_look_at_an_agent_it_sees_has_a_line(method: str) -> None:
    with running_with(LOOKS_AT_ITS_OWN) as server, server.client() as admin, Peers(server) as peers:
        agent = admin.agent.spawn(spec=AgentSpec(command=["sleep", "600"]))
        seer = peers.connect(keys_of(server.issue("seer", "seer")))

        assert seer.refusal(method, params_on(method, agent.id)) == "permission_denied"

        [line] = admin.audit.show(who="seer").lines
    assert (line.method, line.phase, line.outcome) == (method, "refused", "permission_denied")


def test_strangers_at_the_door_are_summed_up(server: Server, log: Log) -> None:
    with Peers(server) as peers:
        for _ in range(10):
            peers.connect(unknown_keys(server)).send("server.hello")

        def counted() -> bool:
            return sum(line.get("count", 1) for line in log.about("handshake")) >= 10

        eventually(counted, timeout=5)
    (first, *_) = told = log.about("handshake")
    assert len(told) < 10
    assert (first["identity"], first["target"], first["outcome"]) == (
        "-",
        "127.0.0.1",
        "unauthenticated",
    )
    assert first["detail"].startswith("key:SHA256:")


@contextmanager
def full(server: Server, client: Client, log: Log) -> Iterator[None]:
    """Let the log grow no more, as on a full disk; it is the largest file the server writes."""
    for number in range(4):
        client.batch.run(verb="stop", ids=[f"nobody{number}-{each}" for each in range(1000)])
    file = server.directory / "state" / "audit.jsonl"
    assert server.process is not None
    eventually(lambda: len(log.about("agent.stop")) == 4000)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    limit = (file.stat().st_size + 40, limits[1])
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)


def audit_works(client: Client) -> bool:
    return client.server.health().checks["audit"] == "ok"


def test_fault_63_while_the_audit_log_cannot_be_written_changes_are_refused(
    fresh: Server,
) -> None:
    server, log = fresh, Log(fresh)
    with server.client() as client:
        agent = client.agent.spawn(spec=SLEEP)
        with full(server, client, log):
            with pytest.raises(UnavailableError, match="the audit log cannot be written: File too"):
                client.agent.stop(id=agent.id)
            health = client.server.health()
            assert health.status == "degraded"
            assert "changes are refused" in health.checks["audit"]
            assert client.agent.get(id=agent.id).state == "running"

        assert client.agent.stop(id=agent.id).state == "terminated"
        assert audit_works(client)
        assert client.audit.verify().holds


def test_fault_63_changes_go_on_without_a_log_where_that_is_configured() -> None:
    with running({"audit.on_error": "continue"}) as server, server.client() as client:
        log = Log(server)
        agent = client.agent.spawn(spec=SLEEP)
        with full(server, client, log):
            assert client.agent.kill(id=agent.id).state == "terminated"
            assert "changes are made unrecorded" in client.server.health().checks["audit"]

        eventually(lambda: audit_works(client), timeout=5)
        assert [line["phase"] for line in log.about("agent.kill")] == ["intent", "outcome"]
        assert client.audit.verify().holds


def test_size_and_number_of_the_files_are_as_configured() -> None:
    with (
        running({"audit.max_bytes": 65_536, "audit.keep_files": 2}) as server,
        server.client() as client,
    ):
        state = server.directory / "state"
        for _ in range(20):
            client.batch.run(verb="stop", ids=[f"nobody{number}" for number in range(100)])

        eventually(lambda: len(list(state.glob("audit-*.jsonl"))) == 2, timeout=5)
        sizes = [path.stat().st_size for path in state.glob("audit*.jsonl")]
    assert all(size < 65_536 + 50_000 for size in sizes)


def test_fault_61_the_intent_outlives_a_kill_and_its_outcome_is_told_after_the_restart(
    fresh: Server,
) -> None:
    server, log = fresh, Log(fresh)
    keeper = server.keeper_pid
    assert keeper is not None
    # Nobody carries anything out meanwhile.
    os.kill(keeper, signal.SIGSTOP)
    try:
        with Peers(server) as peers:
            spec = {"command": ["sleep", "600"], "name": "build-7"}
            peers.connect().send("agent.spawn", {"spec": spec}, idem="once")
            eventually(lambda: len(log.about("agent.spawn")) == 1)
            server.kill()
    finally:
        os.kill(keeper, signal.SIGCONT)

    server.start(wait=False)
    server.wait_until_serving(30)

    eventually(lambda: len(log.about("agent.spawn")) == 2)
    intent, outcome = log.about("agent.spawn")
    assert intent["identity"] == outcome["identity"]
    assert (intent["phase"], intent["target"]) == ("intent", "build-7")
    assert (outcome["phase"], outcome["detail"]) == (
        "outcome",
        "told after a restart of the server",
    )
    with server.client() as client:
        there = [agent.id for agent in client.agent.list().agents]
        assert outcome["outcome"] == ("ok" if there else "aborted")
        assert client.audit.verify().holds


def test_requests_over_a_quota_are_summed_up() -> None:
    roles = """
[policy.roles.hasty]
quotas = { requests_per_second = 5 }
[policy.roles.hasty.methods]
"server.*" = "any"
"""
    with running_with(roles) as server:
        log = Log(server)
        hasty = server.issue("hasty", "hasty")
        with Peers(server) as peers:
            peer = peers.connect(keys_of(hasty), timeout=10)
            for number in range(100):
                peer.send("server.hello", id=number)
            codes = [peer.receive().get("error", {}).get("code") for _ in range(100)]

            def told() -> int:
                return sum(line.get("count", 1) for line in log.about("-"))

            refused = codes.count("resource_exhausted")
            assert refused > 50
            eventually(lambda: told() == refused)
        lines = log.about("-")
        assert len(lines) < 10
        assert {(line["certificate"], line["outcome"]) for line in lines} == {
            ("hasty", "resource_exhausted")
        }
