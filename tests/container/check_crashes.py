"""Daemon and keeper killed at chosen moments on a real systemd: nothing is doubled or made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.container.host import DAEMON, KEEPER, Host, with_package
from tests.support.eventually import eventually

AUDIT = "/var/lib/descartesd/audit.jsonl"
PATIENT_S = 30.0


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with with_package() as made:
        made.run("systemctl start descartesd")
        yield made


def until_well(host: Host, before: str) -> None:
    """Wait until a daemon that is not the one of this pid serves, with a keeper."""
    eventually(lambda: host.unit(DAEMON, "MainPID") not in (before, "0"), timeout=PATIENT_S)
    eventually(lambda: host.is_active(DAEMON), timeout=PATIENT_S)
    eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=PATIENT_S)


def states(host: Host, agent_id: str) -> list[str]:
    """Every state an agent has come to, from the first."""
    told = host.run("timeout 5 descartesctl --json event follow --since 0", status=124)
    events: list[dict[str, Any]] = [json.loads(line) for line in told.splitlines()]
    found = [each for each in events if each["agent_id"] == agent_id]
    return [each["state"] for each in found if each["previous"] != each["state"]]


def test_fault_61_spawn_the_keeper_has_not_read_yet_happens_once_or_never(host: Host) -> None:
    keeper, daemon = host.unit(KEEPER, "MainPID"), host.unit(DAEMON, "MainPID")
    spawning = "descartesctl --timeout 60 agent spawn --name begun -- sleep 3111"
    host.run(
        f"kill -STOP {keeper}; ({spawning} >/root/answer 2>&1; echo $? >/root/status) "
        "</dev/null >/dev/null 2>&1 &"
    )
    # Its intent is on the disk, and what it is to do waits for a keeper that reads nothing.
    eventually(lambda: host.run(f"grep begun {AUDIT}", status=None), timeout=PATIENT_S)

    host.run(f"kill -KILL {daemon}")
    eventually(lambda: host.unit(DAEMON, "MainPID") not in (daemon, "0"), timeout=PATIENT_S)
    host.run(f"kill -CONT {keeper}")
    until_well(host, daemon)

    status = eventually(lambda: host.run("cat /root/status", status=None), timeout=60)
    assert host.unit(KEEPER, "MainPID") == keeper
    running = host.run("pgrep -fxc 'sleep 3111'", status=None)
    names = [each["name"] for each in host.ctl("agent list")["agents"]]
    if status == "0":
        assert (running, names.count("begun")) == ("1", 1)
        host.run("descartesctl agent kill begun")
    else:
        assert "agent.spawn was cut" in host.run("cat /root/answer")
        assert (running, names.count("begun")) == ("0", 0)


def test_fault_61_agents_that_end_while_no_daemon_is_there_have_ended_as_they_did(
    host: Host,
) -> None:
    host.run("descartesctl agent spawn --name killed -- sleep 3000")
    trapped = 'trap "exit 3" TERM; echo set; sleep 3000 & wait'
    host.run(f"descartesctl agent spawn --name exits -- sh -c '{trapped}'")
    eventually(lambda: host.run("descartesctl agent logs exits") == "set", timeout=PATIENT_S)
    agents, daemon = (
        [host.agent(name) for name in ("killed", "exits")],
        host.unit(DAEMON, "MainPID"),
    )
    pids = " ".join(str(agent["pid"]) for agent in agents)

    host.run(
        f"kill -KILL {daemon}; kill -TERM {pids}; while kill -0 {pids}; do :; done 2>/dev/null"
    )
    until_well(host, daemon)

    killed, exits = (host.agent(name) for name in ("killed", "exits"))
    assert (killed["state"], killed["outcome"]["signal"]) == ("failed", 15)
    assert (exits["state"], exits["outcome"]["exit_code"]) == ("failed", 3)
    assert states(host, exits["id"]).count("failed") == 1


def test_fault_61_killed_with_its_keeper_every_agent_is_lost_once(host: Host) -> None:
    host.run("descartesctl agent spawn --name gone -- sh -c 'setsid sleep 3222 & exec sleep 3333'")
    eventually(lambda: host.run("pgrep -fxc 'sleep 3[0-9]*'", status=None) == "2")
    gone, daemon = host.agent("gone")["id"], host.unit(DAEMON, "MainPID")

    host.run(f"kill -KILL {daemon} {host.unit(KEEPER, 'MainPID')}")
    until_well(host, daemon)

    agent = host.agent("gone")
    assert (agent["state"], agent["outcome"]["reason"]) == ("lost", "keeper_lost")
    assert agent["outcome"]["exit_code"] is None
    assert host.run("pgrep -fx 'sleep 3[0-9]*'", status=1) == ""
    host.run("systemctl restart descartesd")
    assert states(host, gone).count("lost") == 1
    host.run("descartesctl agent respawn gone")
    assert host.agent("gone")["state"] == "running"


def test_fault_61_keeper_killed_alone_is_started_again_and_its_agents_are_lost_once(
    host: Host,
) -> None:
    daemon, keeper = host.unit(DAEMON, "MainPID"), host.unit(KEEPER, "MainPID")
    gone = host.agent("gone")["id"]

    host.run(f"kill -KILL {keeper}")

    eventually(lambda: host.agent("gone")["state"] == "lost", timeout=PATIENT_S)
    eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=PATIENT_S)
    assert host.unit(DAEMON, "MainPID") == daemon
    assert host.unit(KEEPER, "MainPID") != keeper
    assert states(host, gone).count("lost") == 2
    host.run("descartesctl agent spawn --wait -- true")
