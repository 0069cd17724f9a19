"""The package on a real systemd, step by step as an administrator would use it.

The tests build on one another: each leaves the service as the next one needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.host import DAEMON, KEEPER, Host, with_package
from tests.support.eventually import eventually

SLEEPER = "agent spawn --name sleeper -- sleep 300"
CONFIG = "/etc/descartesd/descartesd.toml"
PYTHON = "/usr/lib/descartesd/bin/python3"
# As a program that puts a trace of its own into a request.
TRACED = """
import msgpack, zmq
peer = zmq.Context().socket(zmq.REQ)
peer.curve_publickey, peer.curve_secretkey = zmq.curve_keypair()
peer.curve_serverkey = open("/run/descartes/server.pub", "rb").read().strip()
peer.connect("ipc:///run/descartes/control.sock")
request = {"v": 1, "id": 1, "method": "agent.signal", "trace": "build-7"}
peer.send(msgpack.packb({**request, "params": {"id": "sleeper", "signal": "CONT"}, "idem": "k"}))
assert "result" in msgpack.unpackb(peer.recv())
"""


def pids(host: Host) -> dict[str, int]:
    """The processes of the agents that run, by the agents' names."""
    running = host.ctl("agent list --state running")["agents"]
    return {agent["name"]: agent["pid"] for agent in running}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with with_package() as made:
        yield made


@pytest.mark.essential
def test_it_starts_and_says_so(host: Host) -> None:
    assert not host.is_active(DAEMON)
    host.run("systemctl start descartesd")

    assert host.is_active(DAEMON)
    assert host.is_active(KEEPER)
    assert host.unit(DAEMON, "StatusText") == "serving 0 agents, 0 clients"
    health = host.ctl("server health")
    assert (health["status"], health["isolation"]) == ("ok", "user")
    assert health["keeper"]["control_groups"]


@pytest.mark.essential
def test_root_needs_no_key_and_its_agent_no_capability(host: Host) -> None:
    host.run(f"descartesctl {SLEEPER}")

    pid = host.agent("sleeper")["pid"]
    status = dict(re.findall(r"(\w+):\t(.*)", host.run(f"cat /proc/{pid}/status")))
    agents = host.run("id -u descartes-agent")
    assert status["Uid"].split() == [agents] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0
    assert "/descartes-keeper.service/agent-" in host.run(f"cat /proc/{pid}/cgroup")


@pytest.mark.essential
def test_journal_has_every_fact_as_a_field(host: Host) -> None:
    agent = host.agent("sleeper")["id"]

    (ready,) = host.journal("-u descartesd EVENT=server.ready")
    assert ready["PRIORITY"] == "6"
    assert "tcp://127.0.0.1:5555" in ready["LISTENERS"]
    assert ready["_SYSTEMD_UNIT"] == DAEMON
    assert host.journal(f"MESSAGE_ID={ready['MESSAGE_ID']}") == [ready]
    host.run("descartesctl agent pause sleeper && descartesctl agent resume sleeper")
    told = host.journal(f"AGENT_ID={agent} EVENT=agent.state")
    assert [entry["STATE"] for entry in told] == ["running", "paused", "running"]
    (paused,) = host.journal(f"AGENT_ID={agent} METHOD=agent.pause")
    assert (paused["EVENT"], paused["IDENTITY"], paused["OUTCOME"]) == (
        *("request.done", "uid:0", "ok"),
    )
    host.put("/root/traced.py", TRACED)
    host.run(f"{PYTHON} /root/traced.py")
    (traced,) = host.journal("TRACE_ID=build-7")
    assert (traced["METHOD"], traced["AGENT_ID"]) == ("agent.signal", agent)


def test_installed_completion_knows_the_agents(host: Host) -> None:
    script = "/usr/share/bash-completion/completions/descartesctl"
    asked = (
        'COMP_LINE="descartesctl agent stop sl"; COMP_POINT=${#COMP_LINE};'
        " _descartesctl descartesctl sl stop; echo ${COMPREPLY[@]}"
    )

    assert host.run(f"bash -c '. {script}; {asked}'") == "sleeper"


@pytest.mark.essential
def test_agent_reads_neither_keys_nor_registry_nor_output_of_others(host: Host) -> None:
    secrets = (
        "/var/lib/descartesd/keys/host.key", "/var/lib/descartesd/registry.sqlite",
        "/var/lib/descartes-keeper/output", "/run/descartes-keeper/keeper.sock",
    )  # fmt: skip
    tries = "; ".join(f"ls {path} && echo got {path}" for path in secrets)
    host.run(f"descartesctl agent spawn --name thief --wait -- sh -c '{tries}'", status=None)

    told = host.run("descartesctl agent logs thief 2>&1")
    assert "got" not in told
    assert told.count("Permission denied") == len(secrets)
    for path in secrets:
        host.run(f"ls {path}")


def test_nobody_gets_in_who_has_no_role(host: Host) -> None:
    host.run("useradd --create-home --uid 2000 alice")

    told = host.run("runuser -u alice -- descartesctl agent list 2>&1", status=4)
    assert "[policy.local_uids]" in told or '2000 = "' in told


def test_user_of_the_service_may_ask_how_it_is_and_nothing_else(host: Host) -> None:
    assert host.ctl("server health", user="descartesd")["status"] == "ok"

    told = host.run("runuser -u descartesd -- descartesctl agent list 2>&1", status=4)
    assert "agent.list" in told


def test_mapped_user_needs_no_key_and_its_agents_are_its_own(host: Host) -> None:
    host.run(f"printf '[policy.local_uids]\\n2000 = \"operator\"\\n' >> {CONFIG}")
    host.run("systemctl restart descartesd")

    host.ctl("agent spawn --name hers -- sh -c 'id -un; pwd; exec sleep 300'", user="alice")
    eventually(lambda: host.run("descartesctl agent logs hers") == "alice\n/home/alice")
    told = host.run("runuser -u alice -- descartesctl agent spawn --user root -- id 2>&1", status=4)
    assert "spec.user: 'root'" in told
    host.run("descartesctl agent kill hers")


def test_issued_profile_works_over_tcp(host: Host) -> None:
    host.run("cd /root && descartesctl cert issue carol --role operator --out /root/carol.toml")

    assert "tcp://127.0.0.1:5555" in host.run("cat /root/carol.toml")
    told = host.ctl("--profile /root/carol.toml agent spawn --name carols -- id -un")
    assert told["owner"].startswith("key:SHA256:")
    host.run("descartesctl agent wait carols")
    assert host.run("descartesctl agent logs carols") == "descartes-agent"


@pytest.mark.essential
def test_restart_touches_neither_keeper_nor_agent(host: Host) -> None:
    before = host.agent("sleeper")["pid"], host.unit(KEEPER, "MainPID")
    for verb in ("systemctl restart", "systemctl kill --signal=KILL"):
        host.run(f"{verb} descartesd")
        eventually(lambda: host.unit(DAEMON, "ActiveState") == "active", timeout=10)
        assert (host.agent("sleeper")["pid"], host.unit(KEEPER, "MainPID")) == before
        assert host.agent("sleeper")["state"] == "running"


def test_fault_62_twenty_restarts_under_load_refuse_lose_and_double_nothing(host: Host) -> None:
    host.put("/root/local.toml", 'endpoints = ["ipc:///run/descartes/control.sock"]')
    host.run(
        "cd /root; chmod 600 local.toml; descartesctl cert issue load --role admin --out load.toml"
    )
    host.put("/root/load.py", (Path(__file__).parent / "load.py").read_text())
    agent = host.agent("sleeper")
    clients = "/root/load.toml /root/load.toml /root/local.toml /root/local.toml"
    restarts = (
        f"{PYTHON} /root/load.py 30 {clients} > /root/told 2>/root/trouble & "
        "for n in $(seq 20); do s=$(date +%s%N); systemctl restart descartesd || exit 1; "
        "e=$(date +%s%N); echo $(( (e - s) / 1000000 )); sleep 0.3; done; wait"
    )

    took_ms = [int(each) for each in host.run(restarts).split()]

    assert len(took_ms) == 20
    assert host.run("cat /root/trouble") == ""
    told = json.loads(host.run("cat /root/told"))
    assert told["errors"] == []
    assert told["refused"] == []
    assert told["knocks"] > 100
    assert told["p999_s"] <= max(took_ms) / 1000 + 0.1
    assert host.agent("sleeper")["pid"] == agent["pid"]
    names = [each["name"] for each in host.ctl("agent list")["agents"]]
    spawned = [name for name in names if name.startswith("load-")]
    assert sorted(spawned) == sorted(told["spawned"])
    assert len(set(spawned)) == len(spawned) > 20
    assert int(host.unit(DAEMON, "NRestarts")) <= 1
    assert host.ctl("server stats")["clients"] < 20


def test_whoever_waits_is_answered_over_a_restart(host: Host) -> None:
    host.run("descartesctl agent spawn --name short -- sh -c 'sleep 3; echo done; exit 3'")
    waiting = (
        "descartesctl agent wait short > /root/waited; echo $? >> /root/waited & "
        "descartesctl agent logs -f short > /root/followed & "
        "sleep 0.5; systemctl restart descartesd; wait"
    )
    host.run(waiting)

    assert host.run("tail -n 1 /root/waited") == "1"
    assert host.run("cat /root/followed") == "done"


def test_what_does_not_work_is_told_and_restarts_nothing(host: Host) -> None:
    daemon, keeper = host.unit(DAEMON, "MainPID"), host.unit(KEEPER, "MainPID")
    host.run(f"kill -STOP {keeper}")
    eventually(lambda: "degraded: the keeper" in host.unit(DAEMON, "StatusText"), timeout=30)
    assert host.ctl("agent list")["total"] > 0
    host.run(f"kill -CONT {keeper}")
    eventually(lambda: "degraded" not in host.unit(DAEMON, "StatusText"), timeout=30)

    assert (host.unit(DAEMON, "MainPID"), host.unit(KEEPER, "MainPID")) == (daemon, keeper)
    assert host.agent("sleeper")["state"] == "running"


def test_upgrade_restarts_the_daemon_alone(host: Host) -> None:
    counting = "for i in $(seq 120); do echo $i; sleep 0.1; done; exec sleep 300"
    host.run(f"descartesctl agent spawn --name talker -- sh -c '{counting}'")
    for number in range(20):
        host.run(f"descartesctl agent spawn --name live-{number} -- sleep 300")
    before = pids(host)
    keeper, daemon = host.unit(KEEPER, "MainPID"), host.unit(DAEMON, "MainPID")
    host.run(
        "cd /root && dpkg-deb -R /run/deb/*.deb new"
        " && sed -i '/^Version:/s/$/+1/' new/DEBIAN/control"
        " && dpkg-deb -Zgzip -z1 -b new new.deb"
    )
    host.run(
        "descartesctl agent logs -f talker >/root/talked 2>/dev/null & echo $! >/root/follower"
    )

    host.run("dpkg -i /root/new.deb")

    assert host.unit(DAEMON, "MainPID") != daemon
    assert host.unit(KEEPER, "MainPID") == keeper
    assert len(before) >= 22
    assert pids(host) == before
    talked = [str(number + 1) for number in range(120)]
    eventually(lambda: host.run("tail -n 1 /root/talked") == "120", timeout=30)
    assert host.run("cat /root/talked").split() == talked
    host.run("kill $(cat /root/follower)")
    for name in before.keys() - {"sleeper"}:
        host.run(f"descartesctl agent kill {name}")


@pytest.mark.essential
def test_fault_66_hung_daemon_is_shot_by_the_watchdog_and_no_agent_notices(host: Host) -> None:
    drop_in = "/run/systemd/system/descartesd.service.d/watchdog.conf"
    host.put(drop_in, "[Service]\nWatchdogSec=3s")
    host.run("systemctl daemon-reload && systemctl restart descartesd")
    agent = host.agent("sleeper")["pid"]
    hung = host.unit(DAEMON, "MainPID")

    host.run(f"kill -STOP {hung}")
    eventually(lambda: host.unit(DAEMON, "MainPID") not in (hung, "0"), timeout=3 + 5)
    eventually(lambda: host.is_active(DAEMON), timeout=5)

    assert "Watchdog timeout" in host.run("journalctl --no-pager -u descartesd -n 50")
    assert (host.agent("sleeper")["state"], host.agent("sleeper")["pid"]) == ("running", agent)
    host.run(f"rm {drop_in} && systemctl daemon-reload && systemctl restart descartesd")


@pytest.mark.essential
def test_start_that_fails_says_why_in_its_status(host: Host) -> None:
    host.run(f"cp {CONFIG} /root/good && printf '[network]\\nmax_message = 3\\n' >> {CONFIG}")
    host.run("systemctl restart descartesd", status=1)

    why = "network.max_message: unknown key"
    eventually(lambda: why in host.unit(DAEMON, "StatusText"), timeout=10)
    assert why in host.run("descartesctl config check 2>&1", status=2)
    # It is tried again, and the reason stands there all the time.
    eventually(lambda: int(host.unit(DAEMON, "NRestarts")) > 1, timeout=10)
    eventually(lambda: why in host.unit(DAEMON, "StatusText"), timeout=10)
    host.run(f"cp /root/good {CONFIG} && descartesctl config check")
    eventually(lambda: host.is_active(DAEMON), timeout=10)
    assert host.agent("sleeper")["state"] == "running"


@pytest.mark.essential
def test_fault_68_reload_that_is_refused_fails_and_changes_nothing(host: Host) -> None:
    pid = host.unit(DAEMON, "MainPID")
    host.run(f"sed -i 's/max_agents = 100/max_agents = 1/' {CONFIG}")
    host.run("systemctl reload descartesd")
    assert host.ctl("agent spawn --name later -- sleep 300")["state"] == "queued"
    # One of them fits: neither is taken over.
    host.run(f"sed -i 's/max_agents = 1/max_agents = 60/' {CONFIG}")
    host.run(f"printf '[limits]\\nmax_queued = -1\\n' >> {CONFIG}")
    host.run("systemctl reload descartesd", status=1)

    assert "limits.max_queued: expected" in host.run("journalctl --no-pager -u descartesd -n 20")
    eventually(lambda: "was not reloaded" in host.unit(DAEMON, "StatusText"))
    assert host.is_active(DAEMON)
    assert host.agent("later")["state"] == "queued"
    host.run(f"cp /root/good {CONFIG} && systemctl reload descartesd")
    eventually(lambda: host.agent("later")["state"] == "running", timeout=10)
    eventually(lambda: "was not reloaded" not in host.unit(DAEMON, "StatusText"))
    assert host.unit(DAEMON, "MainPID") == pid
    host.run("descartesctl agent kill later")


@pytest.mark.essential
def test_exposure_is_what_is_promised(host: Host) -> None:
    told = host.run("systemd-analyze security --no-pager descartesd.service | tail -n 1")

    assert float(told.split(":")[1].split()[0]) <= 1.8


@pytest.mark.essential
def test_stop_ends_every_agent_in_order_and_leaves_nothing(host: Host) -> None:
    pid = host.agent("sleeper")["pid"]
    host.run("systemctl stop descartesd")

    eventually(lambda: host.unit(KEEPER, "ActiveState") == "inactive", timeout=20)
    assert host.run(f"ls /proc/{pid}", status=2)
    assert host.run("pgrep -u descartesd,descartes-keeper,descartes-agent", status=1) == ""
    assert host.unit(DAEMON, "ActiveState") == "inactive"


@pytest.mark.essential
def test_what_a_stop_has_ended_is_known_as_such_afterwards(host: Host) -> None:
    host.run("systemctl start descartesd")

    outcome = host.agent("sleeper")["outcome"]
    assert (host.agent("sleeper")["state"], outcome["reason"]) == ("terminated", "stopped")
    assert outcome["signal"] == 15
    assert host.ctl("server health")["status"] == "ok"


def test_purge_leaves_what_it_says(host: Host) -> None:
    told = host.run("dpkg --purge descartesd 2>&1")

    assert "left: the users" in told
    assert host.run("systemctl list-units --all --plain --no-legend 'descartes*'") == ""
    # The tests themselves have put something into /root and under the units.
    places = "/etc /usr /var /run /tmp -not -path '/run/systemd/system/*' -not -path '/run/deb/*'"
    left = host.run(f"find {places} -iname '*descartes*'").split()
    assert [path for path in left if not path.startswith("/tmp/descartes-")] == [
        "/var/lib/descartes-agent"
    ]
    assert "temporary files (descartes-ID)" in told
    users = host.run("getent passwd | cut -d: -f1 | grep descartes").split()
    assert sorted(users) == ["descartes-agent", "descartes-keeper", "descartesd"]
