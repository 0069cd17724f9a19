"""Upgrades and a downgrade of the package under live agents, on a real systemd.

The tests build on one another: each leaves the service as the next one needs it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container.host import Host
from tests.container.machine import booted
from tests.container.tree import tree
from tests.support.eventually import eventually

DAEMON, KEEPER = "descartesd.service", "descartes-keeper.service"
CONFIG = "/etc/descartesd/descartesd.toml"
ROOT = Path(__file__).parents[2]
# What is built: the version, and what is added to a module of the keeper.
VERSIONS = {
    "1.0.0": ("keeper", "# version 1.0.0"),
    "1.1.0": ("keeper", "# version 1.1.0"),
    "1.2.0": ("handover", "FORMAT = 2  # no state of a keeper before can be read"),
}
# Numbered lines on both streams until its stdin ends.
COUNTER = """
import os, select
number = 0
while not select.select([0], [], [], 0.02)[0]:
    os.write(1, b"line %07d\\n" % number)
    os.write(2, b"error %07d\\n" % number)
    number += 1
os.write(1, b"last %07d\\n" % number)
"""
PYTHON = "/usr/lib/descartesd/bin/python3"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="dsc-upgrade-") as work:
        debs = Path(work) / "debs"
        debs.mkdir()
        for version, change in VERSIONS.items():
            _build(Path(work) / "source", debs, version, change)
        with booted(tree(), {debs: "/run/deb"}, Path(work) / "console") as machine:
            made = Host(machine)
            install(made, "1.0.0")
            made.run("systemctl start descartesd")
            made.put("/root/counter.py", COUNTER)
            made.put("/root/load.py", (Path(__file__).parent / "load.py").read_text())
            yield made


def _build(source: Path, debs: Path, version: str, change: tuple[str, str]) -> None:
    """Build the package of another version of this source."""
    for name in ("descartesd", "packaging", "systemd", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    project = source / "pyproject.toml"
    text, count = re.subn(
        r'^version = ".*"$', f'version = "{version}"', project.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    project.write_text(text)
    module = source / "descartesd" / "keeper" / f"{change[0]}.py"
    module.write_text(f"{module.read_text()}\n{change[1]}\n")
    subprocess.run(
        [sys.executable, source / "packaging" / "build_deb.py", debs, "--fast"],
        check=True,
        stdout=subprocess.PIPE,
    )
    shutil.rmtree(source)


def install(host: Host, version: str) -> None:
    """Have dpkg put a version in the place of whatever is there."""
    host.run(f"dpkg -i /run/deb/descartesd_{version}-*.deb 2>&1")


def keeper(host: Host) -> dict[str, Any]:
    """What health says of the keeper."""
    found: dict[str, Any] = host.ctl("--wait-for-server 20 server health")["keeper"]
    return found


def running(host: Host) -> dict[str, tuple[int, float]]:
    """The agents of the first test that run: pid and time of start by name."""
    agents = host.ctl("agent list --state running --label kept=yes")["agents"]
    return {agent["name"]: (agent["pid"], agent["started_at"]) for agent in agents}


def until_installed(host: Host, build: str) -> dict[str, Any]:
    """Wait until the keeper is the installed one, and another than that of `build`."""

    def look() -> dict[str, Any] | None:
        found = keeper(host)
        return found if found["build"] == found["installed_build"] != build else None

    found = eventually(look, timeout=60, step=0.2)
    assert found is not None
    return found


def begin_load(host: Host, seconds: int) -> None:
    """Have two clients read and spawn until then."""
    host.run(
        f"{{ {PYTHON} -X faulthandler /root/load.py {seconds}"
        " /root/load.toml /root/local.toml >/root/told;"
        " echo $? >>/root/trouble; } 2>/root/trouble & echo $! >/root/load-pid"
    )


def end_load(host: Host) -> None:
    """Nothing failed, and every agent asked for is there once."""
    host.run("while kill -0 $(cat /root/load-pid) 2>/dev/null; do sleep 0.1; done")
    assert host.run("cat /root/trouble") == "0"
    told = json.loads(host.run("cat /root/told"))
    assert told["errors"] == []
    assert told["refused"] == []
    assert told["knocks"] > 100
    names = [each["name"] for each in host.ctl("agent list")["agents"]]
    spawned = [name for name in names if name.startswith("load-")]
    assert sorted(spawned) == sorted(told["spawned"])
    assert len(set(spawned)) == len(spawned) > 5
    host.run(f"descartesctl --quiet agent remove {' '.join(spawned)}")


def lines(text: str, word: str) -> int:
    """How many lines a counter wrote; not one is missing, and none is there twice."""
    found = [line for line in text.splitlines() if line.startswith(word)]
    assert found == [f"{word} {number:07}" for number in range(len(found))]
    return len(found)


def test_upgrade_under_twenty_agents_and_their_clients_loses_nothing(host: Host) -> None:
    for number in range(19):
        host.run(
            f"descartesctl agent spawn --name live-{number} --label kept=yes --stdin"
            f' -- {PYTHON} -I -S -c "$(cat /root/counter.py)"'
        )
    screen = "--name screen --label kept=yes --tty -- sh -c 'stty -echo; echo ready; cat'"
    host.run(f"descartesctl agent spawn {screen}")
    host.put("/root/local.toml", 'endpoints = ["ipc:///run/descartes/control.sock"]')
    host.run(
        "cd /root; chmod 600 local.toml; descartesctl cert issue load --role admin --out load.toml"
    )
    before, agents = keeper(host), running(host)
    pids = host.unit(DAEMON, "MainPID"), host.unit(KEEPER, "MainPID")
    assert len(agents) == 20
    host.run(
        "descartesctl agent logs -f live-0 >/root/followed 2>/root/followed-errors &"
        " echo $! >/root/follower"
    )
    begin_load(host, 15)

    install(host, "1.1.0")

    after = until_installed(host, before["build"])
    assert host.unit(DAEMON, "MainPID") != pids[0]
    assert host.unit(KEEPER, "MainPID") == pids[1] == str(after["pid"])
    assert host.unit(KEEPER, "NRestarts") == "0"
    assert host.is_active(KEEPER)
    assert host.ctl("server health")["version"] == "1.1.0"
    assert running(host) == agents
    end_load(host)
    assert running(host) == agents
    host.run("echo typed | descartesctl agent write screen -")
    eventually(lambda: "typed" in host.run("descartesctl agent logs screen"), timeout=20)


def test_upgraded_keeper_starts_agents_as_users_without_capabilities(host: Host) -> None:
    show = "sh -c 'id -un; grep Cap[PEA] /proc/self/status'"
    host.run(f"descartesctl agent spawn --name shown --wait -- {show}")

    user, *sets = host.run("descartesctl agent logs shown").splitlines()
    assert user == "descartes-agent"
    assert [int(line.split()[1], 16) for line in sets] == [0, 0, 0]
    host.run("descartesctl agent remove shown")


def test_downgrade_takes_the_keeper_along_and_loses_nothing(host: Host) -> None:
    before, agents = keeper(host), running(host)

    install(host, "1.0.0")

    assert until_installed(host, before["build"])["pid"] == before["pid"]
    assert host.ctl("server health")["version"] == "1.0.0"
    assert running(host) == agents


def test_keeper_stays_where_the_configuration_says_so(host: Host) -> None:
    before, agents = keeper(host), running(host)
    stay = """sed -i '/^\\[server\\]/a keeper_upgrade = "stay"'"""
    host.run(f"cp {CONFIG} /root/config && {stay} {CONFIG}")

    install(host, "1.1.0")

    why = "server.keeper_upgrade is 'stay'"
    eventually(lambda: keeper(host)["stays_because"] == why, timeout=60, step=0.2)
    found = keeper(host)
    assert found["build"] == before["build"] != found["installed_build"]
    assert why in host.run("descartesctl doctor")
    eventually(lambda: why in host.unit(DAEMON, "StatusText"), timeout=20)
    assert host.ctl("server health")["status"] == "ok"
    assert running(host) == agents
    host.run(f"cp /root/config {CONFIG} && systemctl restart descartesd")
    until_installed(host, before["build"])
    assert running(host) == agents


def test_version_that_cannot_take_over_leaves_the_keeper_alone(host: Host) -> None:
    before, agents = keeper(host), running(host)

    install(host, "1.2.0")

    why = "the state of the keeper is of format 1: this one reads 2"
    eventually(lambda: why in (keeper(host)["stays_because"] or ""), timeout=60, step=0.2)
    assert (keeper(host)["pid"], keeper(host)["build"]) == (before["pid"], before["build"])
    assert host.unit(KEEPER, "NRestarts") == "0"
    assert running(host) == agents
    # Not even those of a keeper whose files are gone are in the way of a new start.
    host.run("descartesctl agent spawn --name after --wait -- true")
    install(host, "1.1.0")
    eventually(lambda: keeper(host)["stays_because"] is None, timeout=60, step=0.2)
    assert running(host) == agents


def test_all_that_was_written_is_there_once_and_every_end_is_known(host: Host) -> None:
    for number in range(19):
        host.run(f"descartesctl agent write live-{number} --eof")
        host.run(f"descartesctl agent wait live-{number}")
        agent = host.agent(f"live-{number}")
        assert (agent["state"], agent["outcome"]["exit_code"]) == ("completed", 0)
        written = host.run(f"descartesctl agent logs --stream stdout live-{number}")
        count = lines(written, "line")
        assert count > 100
        assert written.splitlines()[-1] == f"last {count:07}"
        errors = host.run(f"descartesctl agent logs --stream stderr live-{number}")
        assert lines(errors, "error") == count
    host.run("while kill -0 $(cat /root/follower) 2>/dev/null; do sleep 0.1; done")
    told = host.run("descartesctl agent logs --stream stdout live-0")
    assert lines(host.run("cat /root/followed"), "line") == lines(told, "line")
    events = host.run("timeout 10 descartesctl --json event follow --since 0", status=124)
    assert events.count('"keeper_upgraded"') == 3


def test_stop_ends_agents_of_a_reexecuted_keeper_in_order(host: Host) -> None:
    pid = host.agent("screen")["pid"]

    host.run("systemctl stop descartesd")

    eventually(lambda: host.unit(KEEPER, "ActiveState") == "inactive", timeout=60)
    host.run(f"test ! -e /proc/{pid}")
    assert host.unit(KEEPER, "Result") == "success"
    host.run("systemctl start descartesd")
    assert host.agent("screen")["state"] == "terminated"
