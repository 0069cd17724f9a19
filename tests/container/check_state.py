"""What the service needs and does not find: a disk, a registry, a keeper, control groups.

It is told in its status, restarts nothing, and ends by itself when what was missing is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.host import DAEMON, KEEPER, Host, with_package
from tests.support.eventually import eventually

EXAMPLE = Path(__file__).parents[2] / "systemd" / "descartesd.socket"
STATE = "/var/lib/descartesd"
REGISTRY = f"{STATE}/registry.sqlite"
OF_KEEPER = "/run/systemd/system/descartes-keeper.service.d/test.conf"
OF_DAEMON = "/run/systemd/system/descartesd.service.d/test.conf"
SOCKET = "descartesd.socket"
PATIENT_S = 30.0
# As the kernel does it where a disk fails: the file system is read-only, no mount of it is.
# mount(8) would change the mount too, of which the service has a copy.
REMOUNT = """
import ctypes, sys
call = ctypes.CDLL(None).syscall
picked = call(433, -100, sys.argv[1].encode(), 0)
assert call(431, picked, 0, sys.argv[2].encode(), None, 0) == 0
assert call(431, picked, 7, None, None, 0) == 0
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with with_package() as made:
        made.run("systemctl start descartesd && systemctl stop descartesd")
        # A disk of its own, which can be filled and taken away.
        made.run(f"cp -a {STATE} /root/state && mount -t tmpfs -o size=64m state {STATE}")
        made.run(f"cp -a /root/state/. {STATE}/ && chown descartesd: {STATE} && chmod 700 {STATE}")
        made.put("/root/remount.py", REMOUNT)
        made.run("systemctl start descartesd")
        made.run("descartesctl agent spawn --name sleeper -- sh -c 'echo said; exec sleep 3000'")
        yield made


@pytest.fixture
def sleeper(host: Host) -> Iterator[int]:
    """The pid of an agent that runs on, under the same keeper, whatever happens."""
    pid, keeper = host.agent("sleeper")["pid"], host.unit(KEEPER, "MainPID")
    yield pid
    eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=PATIENT_S)
    eventually(lambda: "degraded" not in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    assert (host.agent("sleeper")["state"], host.agent("sleeper")["pid"]) == ("running", pid)
    assert host.unit(KEEPER, "MainPID") == keeper
    host.run("descartesctl agent spawn --wait -- true")


def killed(host: Host, script: str) -> None:
    """Kill the daemon, and do something before it is started again, a second later."""
    pid = host.unit(DAEMON, "MainPID")
    host.run(f"kill -KILL {pid}; while [ -d /proc/{pid} ]; do :; done; {script}")
    eventually(lambda: host.unit(DAEMON, "MainPID") not in (pid, "0"), timeout=PATIENT_S)


def degraded(host: Host, why: str) -> None:
    """It serves and reads are answered, nothing can be changed, and nothing is restarted."""
    eventually(lambda: host.is_active(DAEMON), timeout=PATIENT_S)
    told = f"degraded: {why}"
    eventually(lambda: told in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    pid = host.unit(DAEMON, "MainPID")
    assert host.ctl("server health")["status"] == "degraded"
    assert host.agent("sleeper")["state"] == "running"
    assert host.run("descartesctl agent logs sleeper") == "said"
    refused = host.run("descartesctl agent spawn -- true 2>&1", status=5)
    assert "hint: " in refused
    assert host.unit(DAEMON, "MainPID") == pid
    assert host.journal("-u descartesd EVENT=health.changed STATUS=degraded -n 1")


@pytest.mark.essential
def test_fault_63_start_on_a_read_only_disk_serves_reads(host: Host, sleeper: int) -> None:
    assert sleeper
    killed(host, f"python3 /root/remount.py {STATE} ro")

    degraded(host, "the registry cannot be written")

    assert "cannot be written" in host.ctl("server health")["checks"]["audit"]
    host.run(f"python3 /root/remount.py {STATE} rw")


def test_fault_63_full_disk_bars_changes_until_there_is_room(host: Host, sleeper: int) -> None:
    assert sleeper
    host.run(f"dd if=/dev/zero of={STATE}/filler bs=1M 2>/dev/null; true")
    host.run("for n in $(seq 40); do descartesctl agent signal CONT sleeper; done", status=None)
    degraded(host, "")
    killed(host, "true")
    degraded(host, "")
    host.run(f"rm {STATE}/filler")


def test_fault_63_closed_directory_bars_changes_until_it_is_open(host: Host, sleeper: int) -> None:
    assert sleeper
    pid = host.unit(DAEMON, "MainPID")
    host.run(f"chmod 500 {STATE}")

    degraded(host, f"'{STATE}' cannot be written")

    assert host.unit(DAEMON, "MainPID") == pid
    host.run(f"chmod 700 {STATE}")


@pytest.mark.essential
def test_fault_64_damaged_registry_is_put_aside_and_the_keepers_agents_are_taken_in(
    host: Host,
) -> None:
    before = host.agent("sleeper")["pid"]
    killed(host, f"head -c 50000 /dev/urandom >{REGISTRY}; rm -f {REGISTRY}-wal {REGISTRY}-shm")
    eventually(lambda: host.is_active(DAEMON), timeout=PATIENT_S)

    why = "the registry was damaged and has been begun anew"
    eventually(lambda: why in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    assert host.run(f"ls {REGISTRY}.damaged-* | wc -l") == "1"
    (told,) = host.journal("-u descartesd EVENT=registry.damaged")
    assert told["PRIORITY"] == "3"
    agent = host.agent("sleeper")
    assert (agent["state"], agent["pid"], agent["owner"]) == ("running", before, "uid:0")
    assert agent["labels"] == {"recovered": "keeper"}
    assert host.run("descartesctl agent logs sleeper") == "said"
    host.run("systemctl restart descartesd")
    eventually(lambda: why not in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    assert host.agent("sleeper")["pid"] == before


def test_fault_64_registry_of_a_newer_version_is_refused_and_left_alone(
    host: Host, sleeper: int
) -> None:
    assert sleeper
    version = "import sqlite3; sqlite3.connect('{}', isolation_level=None).execute('PRAGMA {}')"
    newer = version.format(REGISTRY, "user_version = 99")
    killed(host, f'runuser -u descartesd -- python3 -c "{newer}"')

    why = "has schema version 99, newer than"
    eventually(lambda: why in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    assert host.run(f"ls {REGISTRY}.damaged-* | wc -l") == "1"
    ours = version.format(REGISTRY, "user_version = 2")
    host.run(f'runuser -u descartesd -- python3 -c "{ours}"')
    eventually(lambda: host.is_active(DAEMON), timeout=PATIENT_S)


def test_keeper_that_does_not_start_leaves_a_server_that_can_be_asked(host: Host) -> None:
    host.run("systemctl stop descartesd")
    host.run("systemctl mask --runtime descartes-keeper && systemctl start descartesd")

    assert host.is_active(DAEMON)
    eventually(lambda: "degraded: the keeper" in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    assert host.agent("sleeper")["state"] in ("running", "lost", "terminated")
    assert "keeper" in host.run("descartesctl agent spawn -- true 2>&1", status=5)
    assert host.ctl("server health")["isolation"] == "user"
    pid = host.unit(DAEMON, "MainPID")
    host.run("systemctl unmask --runtime descartes-keeper && systemctl start descartes-keeper")
    eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=PATIENT_S)
    assert host.unit(DAEMON, "MainPID") == pid
    host.run("systemctl restart descartesd; descartesctl agent spawn --wait -- true")


def by_their_trees(host: Host) -> None:
    """It is well, says that there are no control groups, and finds agents without them."""
    health = host.ctl("server health")
    assert (health["status"], health["keeper"]["control_groups"]) == ("ok", False)
    assert "groups     none" in host.run("descartesctl server health")
    # The second is an orphan in a session of its own before anybody has looked.
    tree = "setsid sleep 3111 & (setsid sleep 3222 &) ; sleep 3000"
    host.run(f'descartesctl agent spawn --name tree -- bash -c "{tree}"')
    everything = "pgrep -fx 'sleep 3(000|111|222)'"
    eventually(lambda: len(host.run(everything, status=None).split()) == 3)

    host.run("descartesctl agent pause tree")
    assert host.agent("tree")["pause_mode"] == "tree"
    states = host.run(f"ps -o stat= -p $({everything} | paste -sd ,)").split()
    assert [state[0] for state in states] == ["T"] * 3
    # What cannot be enforced is refused, not forgotten.
    refused = host.run("descartesctl agent spawn --memory 50M -- true 2>&1", status=9)
    assert "limits.memory_bytes: this host cannot enforce it" in refused
    host.run("descartesctl agent kill tree")

    assert host.run(everything, status=1) == ""
    assert host.agent("tree")["state"] == "terminated"
    # Who names no agent is none's: it is told, and ended with the keeper.
    leaving = "(setsid env -i sleep 3333 &) ; sleep 0.3"
    host.run(f"descartesctl agent spawn --name leaving --wait -- bash -c '{leaving}'")
    eventually(lambda: "sleep 3333" in str(host.ctl("server health")["keeper"]), timeout=PATIENT_S)
    host.run("descartesctl agent remove tree leaving; systemctl stop descartesd")
    eventually(lambda: host.unit(KEEPER, "ActiveState") == "inactive", timeout=PATIENT_S)
    assert host.run("pgrep -fx 'sleep 3333'", status=1) == ""


@pytest.mark.essential
@pytest.mark.parametrize(
    "obstacle",
    ["Delegate=no\nProtectControlGroups=yes", "TemporaryFileSystem=/sys/fs/cgroup:ro"],
    ids=["read-only", "absent"],
)
def test_fault_71_without_control_groups_agents_are_found_by_their_tree(
    host: Host, obstacle: str
) -> None:
    host.put(OF_KEEPER, f"[Service]\n{obstacle}")
    host.run("systemctl stop descartesd; systemctl daemon-reload; systemctl start descartesd")

    by_their_trees(host)

    host.run(f"rm {OF_KEEPER}; systemctl daemon-reload; systemctl start descartesd")


def test_fault_71_where_control_groups_are_of_version_1_agents_are_found_by_their_tree() -> None:
    with with_package(version_1=True) as old:
        assert old.run("stat -f -c %T /sys/fs/cgroup/systemd") == "cgroupfs"
        old.run("systemctl start descartesd")

        by_their_trees(old)


def test_socket_unit_of_the_example_starts_stops_and_stays_with_the_service(host: Host) -> None:
    host.run("systemctl stop descartesd")
    host.put("/run/systemd/system/descartesd.socket", EXAMPLE.read_text())
    host.put(OF_DAEMON, "[Unit]\nRequires=descartesd.socket\nAfter=descartesd.socket")
    host.run("systemctl daemon-reload && systemctl start descartesd")

    assert host.unit(SOCKET, "ActiveState") == "active"
    assert host.ctl("server health")["status"] == "ok"
    # It is the unit's socket that is served, and nobody but the unit keeps it.
    assert host.unit(SOCKET, "NAccepted") == "0"
    assert host.unit(DAEMON, "NFileDescriptorStore") == "1"
    host.run("cd /root; descartesctl cert issue over --role observer --out over.toml")
    for verb in ("restart", "kill --signal=KILL"):
        host.run(f"systemctl {verb} descartesd")
        over_tcp = "descartesctl --wait-for-server 20 --profile /root/over.toml server info"
        assert "protocol" in host.run(over_tcp)
    host.run("systemctl stop descartesd")
    eventually(lambda: host.unit(SOCKET, "ActiveState") == "inactive")
    assert host.unit(DAEMON, "ActiveState") == "inactive"


def test_socket_unit_that_listens_elsewhere_is_refused_with_what_to_do(host: Host) -> None:
    host.run("sed -i 's/:5555/:5556/' /run/systemd/system/descartesd.socket")
    host.run("systemctl daemon-reload && systemctl start descartesd", status=1)

    why = "systemd listens on tcp://127.0.0.1:5556 for this service, which the configuration"
    eventually(lambda: why in host.unit(DAEMON, "StatusText"), timeout=PATIENT_S)
    assert "ListenStream=" in host.run("journalctl --no-pager -u descartesd -n 20")
    host.run(f"systemctl stop descartesd {SOCKET}; rm {OF_DAEMON}")
