"""Faults the service outlives on a real systemd, each by its number; no agent notices any of them.

The tests build on one agent, `sleeper`, that runs from the first to the last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.host import DAEMON, KEEPER, Host, with_package
from tests.support.eventually import eventually

CONFIG = "/etc/descartesd/descartesd.toml"
DROP_IN = "/run/systemd/system/descartesd.service.d/test.conf"
PYTHON = "/usr/lib/descartesd/bin/python3"
HERE = Path(__file__).parent
BLOCKER = """
import time
from descartesd.api import Action, hookimpl


class Plugin:
    requires_api = "1.0"

    @hookimpl
    def register_actions(self):
        yield Action(name="block", summary="Hold everything up.", run=self.block)

    async def block(self, context, params):
        time.sleep(120)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with with_package() as made:
        made.put("/root/local.toml", 'endpoints = ["ipc:///run/descartes/control.sock"]')
        made.put("/root/load.py", (HERE / "load.py").read_text())
        made.put("/root/hostile.py", (HERE / "hostile.py").read_text())
        raw = HERE.parent / "support" / "rawcurve.py"
        made.put("/root/rawcurve.py", raw.read_text())
        made.run("chmod 600 /root/local.toml; systemctl start descartesd")
        made.run("descartesctl agent spawn --name sleeper -- sleep 3000")
        for name in ("one", "two"):
            made.run(f"cd /root; descartesctl cert issue {name} --role admin --out {name}.toml")
        yield made


@pytest.fixture
def sleeper(host: Host) -> Iterator[int]:
    """The pid of an agent that runs on, under the same keeper, whatever happens."""
    pid, keeper = host.agent("sleeper")["pid"], host.unit(KEEPER, "MainPID")
    yield pid
    eventually(lambda: host.is_active(DAEMON), timeout=30)
    assert (host.agent("sleeper")["state"], host.agent("sleeper")["pid"]) == ("running", pid)
    assert host.unit(KEEPER, "MainPID") == keeper


@pytest.fixture
def life(host: Host, sleeper: int) -> Iterator[str]:
    """The pid of a daemon that must not be restarted."""
    assert sleeper
    pid = host.unit(DAEMON, "MainPID")
    yield pid
    assert host.unit(DAEMON, "MainPID") == pid


def limited(host: Host, line: str) -> None:
    """Restart the daemon with another property of its unit."""
    host.put(DROP_IN, f"[Service]\n{line}")
    host.run("systemctl daemon-reload && systemctl restart descartesd")


def unlimited(host: Host) -> None:
    """Restart it as it is installed."""
    host.run(f"rm -f {DROP_IN}; systemctl daemon-reload && systemctl restart descartesd")


def hostile(host: Host, words: str) -> dict[str, float]:
    """What became of peers that mean no good."""
    told: dict[str, float] = json.loads(host.run(f"{PYTHON} /root/hostile.py {words}"))
    return told


def test_fault_05_two_thousand_half_open_peers_slow_nobody_and_go(host: Host, life: str) -> None:
    assert life
    told = hostile(host, "half-open /root/local.toml 2000 20")

    assert told["beside"] < max(5 * told["at_rest"], 0.05)
    assert told["new"] < 2
    assert told["gone"] < 20
    assert host.ctl("server health")["status"] == "ok"


def test_fault_06_without_a_free_descriptor_it_lives_and_recovers(host: Host, sleeper: int) -> None:
    assert sleeper
    unlimited(host)
    pid = host.unit(DAEMON, "MainPID")
    highest = host.run(f"ls /proc/{pid}/fd | sort -n | tail -n 1")
    limited(host, f"LimitNOFILE={int(highest) + 20}")
    pid = host.unit(DAEMON, "MainPID")

    told = hostile(host, "half-open /root/one.toml 60 40")

    assert told["gone"] < 40
    assert '"accept"' in host.run("journalctl --no-pager -o cat EVENT=handshake.failed")
    eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=10)
    assert host.unit(DAEMON, "MainPID") == pid
    unlimited(host)


def test_fault_07_flood_of_one_hello_is_no_reason_for_the_watchdog(
    host: Host, sleeper: int
) -> None:
    assert sleeper
    limited(host, "WatchdogSec=3s")
    pid = host.unit(DAEMON, "MainPID")

    told = hostile(host, "flood 8")

    assert told["knocks"] > 100
    assert told["median"] < 0.5
    assert host.unit(DAEMON, "MainPID") == pid
    assert "Watchdog timeout" not in host.run("journalctl --no-pager -u descartesd -n 100")


def test_fault_20_message_without_an_end_ends_at_the_memory_the_daemon_may_have(
    host: Host, sleeper: int
) -> None:
    assert sleeper
    assert host.unit(DAEMON, "MemoryMax") == str(1 << 30)
    limited(host, "LimitDATA=300M")

    told = hostile(host, "endless /root/one.toml 600")

    # What has no room is refused and the peer cut off; where even that fails, the daemon ends.
    assert told["ended"] is not None, told
    assert told["sent"] < 400 << 20
    eventually(lambda: host.run("descartesctl server health", status=None), timeout=30)
    eventually(lambda: host.is_active(DAEMON), timeout=30)
    eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=20)
    unlimited(host)


def test_fault_61_killed_again_and_again_it_loses_and_doubles_nothing(
    host: Host, sleeper: int
) -> None:
    clients = "/root/one.toml /root/two.toml /root/local.toml"
    before = int(host.unit(DAEMON, "NRestarts"))
    kills = (
        f"{PYTHON} /root/load.py 20 {clients} >/root/told 2>/root/trouble & "
        "for wait in 0.1 0.7 1.3 0.2 1.9 0.4; do sleep $wait; "
        "pid=$(systemctl show -P MainPID descartesd); kill -KILL $pid; "
        "while [ -d /proc/$pid ]; do sleep 0.02; done; "
        "until systemctl is-active --quiet descartesd; do sleep 0.05; done; done; wait"
    )
    host.run(kills)

    assert host.run("cat /root/trouble") == ""
    told = json.loads(host.run("cat /root/told"))
    assert told["refused"] == []
    # What was begun and had no agent yet is answered as cut short, and never carried out.
    assert all(error.startswith("aborted: agent.spawn was cut") for error in told["errors"])
    assert int(host.unit(DAEMON, "NRestarts")) >= before + 6
    names = [each["name"] for each in host.ctl("agent list")["agents"]]
    spawned = [name for name in names if name.startswith("load-")]
    assert sorted(spawned) == sorted(told["spawned"])
    assert len(set(spawned)) == len(spawned) > 0
    agent = host.agent("sleeper")["id"]
    adopted = "--json event follow --since 0 2>/dev/null | head -n 2000"
    events = host.run(f"timeout 5 descartesctl {adopted} | grep {agent} | grep -c adopted; true")
    # Once in each life, and the first had nothing to adopt.
    lives = len(host.journal("-u descartesd EVENT=server.ready"))
    assert int(events) <= lives - 1
    assert host.run(f"pgrep -P {host.unit(KEEPER, 'MainPID')} | grep -cx {sleeper}") == "1"


@pytest.mark.essential
def test_fault_66_loop_blocked_by_a_plugin_is_ended_and_who_waits_is_answered(
    host: Host, sleeper: int
) -> None:
    assert sleeper
    packages = host.run("ls -d /usr/lib/descartesd/lib/python3*/site-packages")
    about = f"{packages}/blocker-1.dist-info"
    host.put(f"{packages}/blocker.py", BLOCKER)
    host.put(f"{about}/METADATA", "Metadata-Version: 2.1\nName: descartesd-blocker\nVersion: 1")
    host.put(f"{about}/entry_points.txt", "[descartesd]\nblocker = blocker:Plugin")
    host.run(
        f"cp {CONFIG} /root/good; printf '\\n[plugins]\\nenabled = [\"blocker\"]\\n' >> {CONFIG}"
    )
    limited(host, "WatchdogSec=3s")
    host.run("descartesctl agent spawn --name short -- sh -c 'echo said; sleep 6; exit 3'")
    pid = host.unit(DAEMON, "MainPID")

    host.run(
        "(descartesctl agent wait short >/root/waited; echo $? >>/root/waited) & "
        "(descartesctl agent logs -f short >/root/followed 2>/dev/null) & "
        "sleep 1; timeout 20 descartesctl action run block >/root/blocked 2>&1 & "
        "sleep 1; true"
    )
    eventually(lambda: host.unit(DAEMON, "MainPID") not in (pid, "0"), timeout=3 + 5)

    assert "Watchdog timeout" in host.run("journalctl --no-pager -u descartesd -n 50")
    eventually(lambda: host.run("tail -n 1 /root/waited") == "1", timeout=30)
    eventually(lambda: host.run("cat /root/followed") == "said", timeout=30)
    # The request that has done it is not carried out a second time.
    second = host.unit(DAEMON, "MainPID")
    eventually(lambda: "error" in host.run("cat /root/blocked"), timeout=30)
    assert host.unit(DAEMON, "MainPID") == second
    host.run(f"cp /root/good {CONFIG}; rm -r {about} {packages}/blocker.py")
    unlimited(host)


def test_fault_72_storm_of_sighups_is_outlived_and_the_last_one_counts(
    host: Host, life: str
) -> None:
    fewest = f"sed -i 's/max_agents = 100/max_agents = 1/' {CONFIG}"
    one = "systemctl kill --signal=HUP --kill-who=main descartesd"
    host.run(f"cp {CONFIG} /root/good; for n in $(seq 300); do {one}; done")
    host.run(f"{fewest}; {one}")

    # It may have been taken over by one before the last.
    reloads = "journalctl --no-pager -u descartesd -o cat EVENT=config.reloaded"
    eventually(lambda: '"server.max_agents"' in host.run(reloads), timeout=20)
    assert host.ctl("agent spawn --name later -- sleep 3000")["state"] == "queued"
    host.run(f"cp /root/good {CONFIG}")
    host.run(f"kill -HUP {life}")
    eventually(lambda: host.agent("later")["state"] == "running", timeout=20)
    eventually(lambda: "reloading" not in host.unit(DAEMON, "ActiveState"), timeout=20)
    assert host.is_active(DAEMON)
    assert host.ctl("server health")["status"] == "ok"
    host.run("descartesctl agent kill later")


@pytest.mark.essential
def test_fault_72_stopped_amid_a_burst_of_spawns_it_leaves_no_orphan(host: Host) -> None:
    spawning = "while :; do descartesctl --timeout 2 agent spawn -- sleep 4000; done"
    took_s = host.run(
        f"for n in $(seq 6); do timeout 8 sh -c '{spawning}' >/dev/null 2>&1 & done; sleep 2; "
        "began=$(date +%s); systemctl stop descartesd; echo $(( $(date +%s) - began )); wait"
    )

    assert int(took_s) <= 15
    assert host.unit(DAEMON, "ActiveState") == "inactive"
    assert host.unit(DAEMON, "Result") == "success"
    eventually(lambda: host.unit(KEEPER, "ActiveState") == "inactive", timeout=60)
    assert host.run("pgrep -u descartesd,descartes-keeper,descartes-agent", status=1) == ""
