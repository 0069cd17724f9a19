"""A keeper as systemd runs it: its own user, ambient capabilities, a delegated group."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Client, spawn_request

UID = 61_300
AGENT = {"uid": 61_301, "gid": 61_301, "groups": [61_301]}
CAPABILITIES = "CAP_CHOWN CAP_KILL CAP_SETGID CAP_SETUID"
UNIT = "keeper-check.service"
# As a login has it, and none of root's.
DIRECTORY = Path("/run/keeper-check")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """What speaks to the keeper; the agents of all tests end with it."""
    subprocess.run(["useradd", f"--uid={UID}", "--user-group", "keeper"], check=True)
    properties = [
        "Delegate=yes", "KillMode=mixed", "TasksMax=infinity", "OOMPolicy=continue",
        "User=keeper", "Group=keeper", f"AmbientCapabilities={CAPABILITIES}",
        f"CapabilityBoundingSet={CAPABILITIES}", "RuntimeDirectory=keeper-check",
        f"Environment=PYTHONPATH={os.environ['PYTHONPATH']}",
    ]  # fmt: skip
    subprocess.run(
        [
            "systemd-run", "--quiet", f"--unit={UNIT}",
            *(f"--property={each}" for each in properties),
            sys.executable, "-m", "descartesd.keeper", "--socket", DIRECTORY / "s",
            "--output-dir", DIRECTORY / "out",
        ],
        check=True,
    )  # fmt: skip
    try:
        eventually((DIRECTORY / "s").exists, timeout=20)
    except AssertionError as exc:
        said = subprocess.run(
            ["journalctl", "--no-pager", f"--unit={UNIT}"],
            capture_output=True,
            text=True,
            check=False,
        )
        raise AssertionError(said.stdout) from exc
    client = Client(str(DIRECTORY / "s"))
    yield client
    client.close()
    subprocess.run(["systemctl", "stop", UNIT], check=True)
    assert not Path(f"/sys/fs/cgroup/system.slice/{UNIT}").exists()


def run(client: Client, *argv: str, **fields: object) -> dict[str, object]:
    """Start an agent and wait for its end."""
    request = spawn_request(*argv, **fields)
    client.ask("spawn", **request)
    client.event("exited", request["agent_id"])
    return client.event("eof", request["agent_id"])


def output(agent: dict[str, object]) -> str:
    """What an agent wrote."""
    return (DIRECTORY / "out" / f"{agent['agent_id']}.stdout").read_text()


def test_it_has_groups_with_controllers_and_may_start_others(client: Client) -> None:
    assert {"cgroup", "users"} <= set(client.ask("hello", version="1.0")["features"])
    enabled = Path(f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.subtree_control").read_text()
    assert {"cpu", "memory", "pids"} <= set(enabled.split())


def test_agent_has_its_user_and_no_capability(client: Client) -> None:
    limits = {"memory_bytes": 1 << 28, "cpu_percent": 90, "tasks": 50}
    agent = run(client, "cat", "/proc/self/status", "/proc/self/cgroup", user=AGENT, limits=limits)

    told = dict(line.split(":\t") for line in output(agent).splitlines() if ":\t" in line)
    assert told["Uid"].split() == ["61301"] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(told[name], 16) == 0
    assert agent["limits_enforced"] == dict.fromkeys(limits, True)
    assert f"{UNIT}/agent-{agent['agent_id']}.1" in output(agent)


def test_agent_cannot_become_root_or_leave_its_group(client: Client) -> None:
    script = (
        "import os\n"
        f"group = '/sys/fs/cgroup/system.slice/{UNIT}'\n"
        "for what in (lambda: os.setuid(0),\n"
        "             lambda: open(f'{group}/cgroup.procs', 'w'),\n"
        "             lambda: open(f'{group}/keeper/cgroup.procs', 'w')):\n"
        "    try:\n"
        "        what()\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
    )

    assert output(run(client, *PYTHON, script, user=AGENT)) == "refused\n" * 3


def test_limits_hold_for_an_agent_of_another_user(client: Client) -> None:
    hog = "held = []\nwhile True: held.append(b'x' * 1_000_000)"
    hungry = run(client, *PYTHON, hog, user=AGENT, limits={"memory_bytes": 50 << 20})
    many = run(
        client, "sh", "-c", "i=0; while [ $i -lt 20 ]; do sleep 9 & i=$((i + 1)); done",
        user=AGENT, limits={"tasks": 8},
    )  # fmt: skip

    assert (hungry["signal"], hungry["out_of_memory"]) == (9, True)
    assert many["exit_code"] == 2


def test_frozen_agent_of_another_user_is_killed(client: Client) -> None:
    request = spawn_request("sh", "-c", "sleep 300 & setsid sleep 300", user=AGENT)
    client.ask("spawn", **request)
    agent_id = request["agent_id"]

    assert client.ask("pause", agent_id=agent_id) == {"mode": "cgroup"}
    client.ask("kill", agent_id=agent_id)

    assert client.event("exited", agent_id)["signal"] == 9
    groups = Path(f"/sys/fs/cgroup/system.slice/{UNIT}")
    eventually(lambda: not list(groups.glob("agent-*")))
