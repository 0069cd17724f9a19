"""Keepers of other versions: an older one works, and one that may turns into the installed one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Event as Flag

import pytest

from descartesd.client import Client
from descartesd.keeper import protocol
from descartesd.wire.agent import AgentInfo, AgentSpec, Tty
from descartesd.wire.server import KeeperHealth
from tests.support.agents import SLEEP, output, python, sh, spec, until_output
from tests.support.eventually import eventually
from tests.support.keepers import PREVIOUS, Installation, previous_keeper
from tests.support.manager import managed
from tests.support.server import BIN, Server

# Numbered lines until its stdin ends, and how many they were.
COUNTER = """
import os, select
number = 0
while not select.select([0], [], [], 0.01)[0]:
    os.write(1, b"line %07d\\n" % number)
    number += 1
os.write(1, b"last %07d\\n" % number)
"""
SLOW_S = 30.0


@pytest.fixture
def installed() -> Iterator[tuple[Server, Installation]]:
    """A server that runs from an installation of its own, not started yet."""
    with Server() as server:
        yield server, Installation(server)


def keeper_of(client: Client) -> KeeperHealth:
    return client.server.health().keeper


def is_installed(client: Client) -> bool:
    keeper = keeper_of(client)
    return keeper.connected and keeper.build == keeper.installed_build


def identity(agent: AgentInfo) -> tuple[object, ...]:
    return agent.name, agent.pid, agent.started_at, agent.attempt


def upgraded(client: Client) -> list[dict[str, dict[str, str]]]:
    """Of every event that told of an upgrade, what it told."""
    last = client.server.hello().last_event
    found = []
    with client.event.follow(since=0) as events:
        for event in events:
            if event.kind == "keeper_upgraded":
                found.append(event.data)
            if event.seq >= last:
                return found
    return found


def counted(text: bytes) -> int:
    """How many lines a counter wrote; not one is missing, and none is there twice."""
    *lines, last = text.split(b"\n")[:-1]
    count = int(last.split()[1])
    assert lines == [b"line %07d" % number for number in range(count)]
    return count


def test_daemon_works_with_a_keeper_of_the_previous_version() -> None:
    with Server() as server, previous_keeper(server) as pid:
        server.start()
        with server.client() as client:
            keeper = keeper_of(client)
            assert (keeper.pid, keeper.version) == (pid, PREVIOUS)
            assert keeper.installed_version == protocol.VERSION != PREVIOUS
            why = f"a keeper of version {PREVIOUS} cannot re-execute itself"
            eventually(lambda: keeper_of(client).stays_because == why)
            assert client.server.health().status == "ok"

            for words in (("server", "health"), ("server", "info"), ("doctor",)):
                told = server.ctl(*words).stdout.decode()
                assert f"version {PREVIOUS}, build {keeper.build}" in told
                assert f"version {protocol.VERSION}, build {keeper.installed_build}: {why}" in told

            _use_everything(server, client)


def _use_everything(server: Server, client: Client) -> None:
    cat = client.agent.spawn(spec=spec("cat", stdin="pipe", limits={"open_files": 99}))
    screen = client.agent.spawn(spec=sh("stty size; read x; exit 4", tty=Tty(rows=30, cols=90)))
    lived = client.agent.spawn(spec=spec(*SLEEP))
    until_output(client, screen.id, b"30 90")
    assert client.agent.pause(id=lived.id).state == "paused"
    server.crash_and_restart()
    assert client.agent.get(id=lived.id).state == "paused"
    assert client.agent.resume(id=lived.id).pid == lived.pid
    client.agent.resize(id=screen.id, rows=10, cols=20)
    client.agent.write(id=screen.id, data=b"x\n")
    client.agent.write(id=cat.id, data=b"hello\n")
    client.agent.close_stdin(id=cat.id)
    assert client.agent.wait(id=cat.id).state == "completed"
    assert output(client, cat.id) == b"hello\n"
    ended = client.agent.wait(id=screen.id)
    assert ended.outcome is not None
    assert ended.outcome.exit_code == 4
    client.agent.stop(id=lived.id)
    assert client.agent.wait(id=lived.id).state == "terminated"
    assert client.agent.respawn(id=cat.id).attempt == 2
    client.agent.kill(id=cat.id)
    for agent in (cat, screen, lived):
        client.agent.wait(id=agent.id)
        client.agent.remove(id=agent.id)


def test_systemd_is_told_of_an_older_keeper() -> None:
    with managed() as server:
        server.stop()
        with previous_keeper(server):
            server.start()
            said = f"; the keeper is {PREVIOUS}, installed is {protocol.VERSION}: "
            eventually(lambda: said in server.hearing.status)
            server.stop()


def test_upgrade_touches_neither_agents_nor_streams_nor_clients(
    installed: tuple[Server, Installation],
) -> None:
    server, package = installed
    server.start()
    over = Flag()
    with (
        server.client(wait_for_server_s=SLOW_S) as client,
        ThreadPoolExecutor(2) as pool,
        ExitStack() as undone,
    ):
        undone.callback(over.set)
        assert is_installed(client)
        first = keeper_of(client)
        agents = [client.agent.spawn(spec=_counter(number)) for number in range(19)]
        agents.append(client.agent.spawn(spec=sh("stty -echo; cat", tty=Tty(rows=30, cols=90))))
        following = undone.enter_context(_following(server, "a0"))
        # One that has not begun to follow would be refused while nobody is there.
        eventually((server.root / "followed").read_bytes, timeout=SLOW_S)
        loads = [pool.submit(_load, server, over) for _ in range(2)]
        for number in range(2):
            package.change("keeper", f"# version {number}")
            server.crash_and_restart()
            eventually(lambda: is_installed(client), timeout=SLOW_S)
        over.set()
        assert min(load.result(timeout=SLOW_S) for load in loads) > 0

        found = keeper_of(client)
        assert (found.pid, found.stays_because) == (first.pid, None)
        assert found.build != first.build
        changes = upgraded(client)
        assert len(changes) == 2
        assert changes[0]["from"]["build"] == first.build
        assert changes[0]["to"] == changes[1]["from"]
        assert changes[1]["to"]["build"] == found.build
        now = [client.agent.get(id=agent.id) for agent in agents]
        assert [identity(agent) for agent in now] == [identity(agent) for agent in agents]
        assert {agent.state for agent in now} == {"running"}
        for agent in agents[:-1]:
            client.agent.close_stdin(id=agent.id)
        for agent in agents[:-1]:
            assert client.agent.wait(id=agent.id).state == "completed"
            assert counted(output(client, agent.id)) > 20
        assert following.wait(SLOW_S) == 0
        assert (server.root / "followed").read_bytes() == output(client, agents[0].id)


@contextmanager
def _following(server: Server, agent: str) -> Iterator[subprocess.Popen[bytes]]:
    """Follow an agent's output by the command line into the file `followed`."""
    with (server.root / "followed").open("wb") as file:
        process = subprocess.Popen(
            [BIN / "descartesctl", "--profile", server.admin, "agent", "logs", "-f", agent],
            stdout=file,
            env=server.environ,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _counter(number: int) -> AgentSpec:
    return python(COUNTER, stdin="pipe", name=f"a{number}")


def _load(server: Server, over: Flag) -> int:
    """Start agents and hear how they end until it is over; no request may fail."""
    count = 0
    with server.client(wait_for_server_s=SLOW_S, timeout_s=SLOW_S) as client:
        while not over.is_set():
            agent = client.agent.spawn(spec=sh(f"echo {count}; exit {count % 200}"))
            ended = client.agent.wait(id=agent.id)
            assert ended.outcome is not None
            assert ended.outcome.exit_code == count % 200
            # Its end may be told before the last of its output.
            until_output(client, agent.id, b"%d\n" % count)
            count += 1
    return count


def test_keeper_stays_where_the_configuration_says_so(
    installed: tuple[Server, Installation],
) -> None:
    server, package = installed
    server.environ["DESCARTES_SERVER__KEEPER_UPGRADE"] = "stay"
    server.start()
    with server.client(wait_for_server_s=SLOW_S) as client:
        before = keeper_of(client)
        package.change("keeper", "# another version")
        server.crash_and_restart()
        why = "server.keeper_upgrade is 'stay'"
        eventually(lambda: keeper_of(client).stays_because == why, timeout=SLOW_S)
        assert keeper_of(client).build == before.build != keeper_of(client).installed_build
        agent = client.agent.spawn(spec=spec(*SLEEP))

        del server.environ["DESCARTES_SERVER__KEEPER_UPGRADE"]
        server.crash_and_restart()

        eventually(lambda: is_installed(client), timeout=SLOW_S)
        assert client.agent.get(id=agent.id).state == "running"


def test_version_that_cannot_take_over_is_left_alone(
    installed: tuple[Server, Installation],
) -> None:
    server, package = installed
    server.start()
    with server.client(wait_for_server_s=SLOW_S) as client:
        before = keeper_of(client)
        agent = client.agent.spawn(spec=spec(*SLEEP))
        package.change("handover", "FORMAT = 2")
        server.crash_and_restart()

        why = "the state of the keeper is of format 1: this one reads 2"
        eventually(lambda: why in (keeper_of(client).stays_because or ""), timeout=SLOW_S)
        assert (keeper_of(client).pid, keeper_of(client).build) == (before.pid, before.build)
        assert client.server.health().status == "ok"
        assert upgraded(client) == []
        assert client.agent.wait(id=client.agent.spawn(spec=sh("exit 0")).id).state == "completed"
        assert client.agent.get(id=agent.id).pid == agent.pid
        log = server.log_text()
        assert len(re.findall(r"keeper\.stays", log)) == 1, log
        package.change("handover", "FORMAT = 1")
        server.crash_and_restart()
        eventually(lambda: is_installed(client), timeout=SLOW_S)
        assert client.agent.get(id=agent.id).state == "running"


def test_previous_version_is_the_one_before_this() -> None:
    minor = int(protocol.VERSION.split(".")[1])

    assert f"1.{minor - 1}" == PREVIOUS
