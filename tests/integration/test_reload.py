"""A changed configuration is taken over by a server that runs, all of it or nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from descartesd.client import Client
from descartesd.errors import DescartesError, InvalidArgumentError, PermissionDeniedError
from descartesd.wire.agent import AgentSpec
from tests.support.agents import SLEEP, left_empty, spec
from tests.support.eventually import eventually
from tests.support.manager import managed
from tests.support.server import Server, running

ROLE = """
[policy.roles.watcher]
[policy.roles.watcher.methods]
"agent.list" = "any"
"server.hello" = "any"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """The administrator; afterwards the configuration is what it was, and no agent is left."""
    text = server.config.read_text()
    with server.client() as client, left_empty(client):
        yield client
        server.config.write_text(text)
        client.server.reload()


def rewrite(server: Server, old: str, new: str) -> None:
    text = server.config.read_text()
    assert text.count(old) == 1
    server.config.write_text(text.replace(old, new))


def test_nothing_has_changed(client: Client) -> None:
    found = client.server.reload()

    assert (found.changed, found.restart) == ([], [])


def test_more_agents_may_run_and_those_that_wait_start(server: Server, client: Client) -> None:
    rewrite(server, "max_agents = 100", "max_agents = 1")
    assert client.server.reload().changed == ["server.max_agents"]
    first = client.agent.spawn(spec=spec(*SLEEP))
    second = client.agent.spawn(spec=spec(*SLEEP))
    assert (first.state, second.state) == ("running", "queued")

    rewrite(server, "max_agents = 1\n", "max_agents = 2\n")
    client.server.reload()

    eventually(lambda: client.agent.get(id=second.id).state == "running")


def test_limits_hold_for_the_next_agent(server: Server, client: Client) -> None:
    rewrite(server, "max_agents = 100", "max_agents = 1")
    rewrite(server, "max_queued = 1000", "max_queued = 0")
    rewrite(server, "keep_ended_secs = 0", "keep_ended_secs = 1")
    assert client.server.reload().changed == [
        "server.max_agents", "limits.max_queued", "limits.keep_ended_secs",
    ]  # fmt: skip
    agent = client.agent.spawn(spec=spec(*SLEEP))
    with pytest.raises(DescartesError, match="max_queued is 0"):
        client.agent.spawn(spec=spec(*SLEEP))
    client.agent.kill(id=agent.id)

    eventually(lambda: client.agent.list().total == 0)


def test_roles_change_for_connections_there_are(server: Server, client: Client) -> None:
    with server.config.open("a") as config:
        config.write(ROLE)
    assert client.server.reload().changed == ["policy.roles"]
    profile = server.directory / "profiles" / "watcher.toml"
    if not profile.exists():
        server.issue("watcher", "watcher")
    with server.client(profile) as watcher:
        watcher.agent.list()
        with pytest.raises(PermissionDeniedError):
            watcher.server.stats()

        rewrite(server, '"agent.list" = "any"', '"server.stats" = "any"')
        client.server.reload()

        watcher.server.stats()
        with pytest.raises(PermissionDeniedError):
            watcher.agent.list()


def test_backends_change_for_the_next_agent(server: Server, client: Client) -> None:
    with server.config.open("a") as config:
        config.write('\n[backends.hello]\ncommand = ["echo", "--", "{task}"]\n')
    assert client.server.reload().changed == ["backends"]
    assert "hello" in client.server.hello().backends

    agent = client.agent.spawn(spec=AgentSpec(backend="hello", task="it works"))
    client.agent.wait(id=agent.id)
    assert client.agent.output(id=agent.id, stream="stdout").data == b"-- it works\n"


def test_log_level_changes(server: Server, client: Client) -> None:
    rewrite(server, 'log_level = "info"', 'log_level = "error"')
    client.server.reload()
    before = len(server.log_text())
    rewrite(server, "max_agents = 100", "max_agents = 99")
    client.server.reload()

    assert "config.reloaded" not in server.log_text()[before:]


def test_what_needs_a_restart_is_listed_until_there_is_one(server: Server, client: Client) -> None:
    rewrite(server, "send_hwm = 1000", "send_hwm = 999")
    for _ in range(2):
        found = client.server.reload()
        assert (found.changed, found.restart) == ([], ["network.send_hwm"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[limits]\nmax_queue = 1", "limits.max_queue: unknown key"),
        ("[backends.x]\ncommand = []", "backends.x"),
        ("max_agents =", "is not valid TOML"),
    ],
)
def test_fault_68_configuration_that_is_refused_changes_nothing(
    server: Server, client: Client, line: str, said: str
) -> None:
    rewrite(server, "max_agents = 100", "max_agents = 1")
    rewrite(server, "[limits]", line)
    with pytest.raises(InvalidArgumentError, match=said) as refused:
        client.server.reload()

    assert refused.value.hint is not None
    assert refused.value.hint.startswith("nothing was changed")
    agents = [client.agent.spawn(spec=spec(*SLEEP)) for _ in range(2)]
    assert [agent.state for agent in agents] == ["running", "running"]
    server.config.write_text(server.config.read_text().replace(line, "[limits]"))


def test_command_says_what_it_did(server: Server, client: Client) -> None:
    rewrite(server, "max_agents = 100", "max_agents = 7")
    rewrite(server, "send_hwm = 1000", "send_hwm = 999")

    told = server.ctl("server", "reload", "--wait")
    assert told.returncode == 0
    assert told.stdout.split() == (
        b"changed server.max_agents needs a restart network.send_hwm".split()
    )
    told = server.ctl("--json", "server", "reload")
    assert json.loads(told.stdout) == {"changed": [], "restart": ["network.send_hwm"]}
    rewrite(server, "[limits]", "[limit]")
    refused = server.ctl("server", "reload")
    assert refused.returncode == 2
    assert b"limit: unknown" in refused.stderr
    server.config.write_text(server.config.read_text().replace("[limit]", "[limits]"))


def test_fault_72_storm_of_sighups_is_outlived_and_the_last_one_counts() -> None:
    with managed() as server, server.client() as client:
        assert server.process is not None
        agent = client.agent.spawn(spec=spec(*SLEEP))
        for number in range(200):
            if number == 150:
                rewrite(server, "max_agents = 100", "max_agents = 5")
            server.process.send_signal(signal.SIGHUP)

        eventually(lambda: '"changed":["server.max_agents"]' in server.log_text())
        eventually(lambda: server.hearing.notices[-1].get("READY") == "1")
        reloads = server.hearing.values("RELOADING")
        assert 1 <= len(reloads) < 200
        assert len(server.hearing.values("MONOTONIC_USEC")) == len(reloads)
        assert client.agent.get(id=agent.id).state == "running"


def test_fault_68_refused_reload_stands_in_the_status_until_one_succeeds() -> None:
    with managed() as server:
        assert server.process is not None
        text = server.config.read_text()
        rewrite(server, "max_agents = 100", "max_agents = 0")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "was not reloaded: " in server.hearing.status)
        assert "server.max_agents: expected" in server.hearing.status

        server.config.write_text(text)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "was not reloaded: " not in server.hearing.status)


def test_sighup_ends_a_server_in_the_foreground() -> None:
    with running() as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)

        assert server.process.wait(timeout=20) == 0
