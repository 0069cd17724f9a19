"""The package on a whole host: limits, users and exposure where every controller is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually

DEB = Path("/run/job/deb")
DAEMON = "descartesd.service"
# The processor is emulated.
PATIENT_S = 60.0


def run(script: str, *, status: int | None = 0) -> str:
    """What a shell prints; its exit status has to be this one, None for any."""
    # Programs of the package run with what is in it, not with what the tests are run with.
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
    done = subprocess.run(
        [*clean, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    told = done.stdout.decode()
    assert status in (None, done.returncode), f"{script}: {done.returncode}\n{told}"
    return told.strip()


def ctl(words: str) -> Any:
    """What `descartesctl --json` prints."""
    return json.loads(run(f"descartesctl --timeout 60 --json {words}"))


def unit(field: str) -> str:
    """A property of the daemon's unit."""
    return run(f"systemctl show --property={field} --value {DAEMON}")


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """The package, started; removed afterwards with everything it made."""
    run(f"dpkg -i {DEB}/*.deb && systemctl start {DAEMON}")
    yield
    run("dpkg --purge descartesd")


def test_it_serves_and_says_so() -> None:
    assert unit("ActiveState") == "active"
    assert unit("StatusText").startswith("serving 0 agents")
    health = ctl("server health")
    assert (health["status"], health["isolation"]) == ("ok", "user")


def test_exposure_of_the_running_unit_is_what_is_promised() -> None:
    told = run(f"systemd-analyze security --no-pager {DAEMON} | tail -n 1")

    assert float(told.split(":")[1].split()[0]) <= 1.8


def test_each_process_is_who_it_is_to_be() -> None:
    users = run("ps -eo user:20,args | grep -E '/usr/bin/descartes(d|-keeper)' | grep -v grep")

    assert sorted(line.split()[0] for line in users.splitlines()) == [
        "descartes-keeper",
        "descartesd",
    ]
    agent = ctl("agent spawn --name who -- sleep 300")
    assert run(f"ps -o user:20= -p {agent['pid']}") == "descartes-agent"
    run("descartesctl agent kill who")


def test_agent_reads_neither_keys_nor_registry_nor_output_of_others() -> None:
    run("useradd --create-home --uid 2000 alice")
    run("printf '[policy.local_uids]\\n2000 = \"operator\"\\n' >>/etc/descartesd/descartesd.toml")
    run("systemctl reload descartesd")
    hers = json.loads(
        run("runuser -u alice -- descartesctl --json agent spawn --name hers -- echo private")
    )
    run("descartesctl agent wait hers")
    output = f"/var/lib/descartes-keeper/output/{hers['id']}.stdout"
    secrets = ("/var/lib/descartesd/keys/host.key", "/var/lib/descartesd/registry.sqlite", output)
    tries = "; ".join(f"cat {path} && echo got" for path in secrets)

    run(f"descartesctl agent spawn --name thief -- sh -c '{tries}'")
    run("descartesctl agent wait thief", status=None)

    told = run("descartesctl agent logs thief 2>&1")
    assert "got" not in told
    assert "private" not in told
    assert told.count("Permission denied") == len(secrets)
    assert run(f"cat {output}") == "private"


def test_memory_of_an_agent_is_bounded_and_it_alone_ends() -> None:
    run("descartesctl agent spawn --name bystander -- sleep 300")
    hog = "held = []\nwhile True: held.append(b'x' * 1_000_000)"
    Path("/tmp/hog.py").write_text(hog)  # an agent has to read it
    Path("/tmp/hog.py").chmod(0o644)

    agent = ctl("agent spawn --name hog --memory 50M -- python3 /tmp/hog.py")
    run("descartesctl --timeout 60 agent wait hog", status=1)

    assert agent["limits_enforced"] == {"memory_bytes": True}
    outcome = ctl("agent show hog")["outcome"]
    assert (outcome["reason"], outcome["signal"]) == ("out_of_memory", 9)
    assert ctl("agent show bystander")["state"] == "running"
    assert ctl("server health")["status"] == "ok"


def test_fault_20_memory_of_the_daemon_is_bounded_and_agents_outlive_it() -> None:
    assert unit("MemoryMax") == str(1 << 30)
    pid = unit("MainPID")
    agent = ctl("agent show bystander")["pid"]

    # As if it had been given more than it may have: by less, what it has is too much at once.
    run(f"systemctl set-property --runtime {DAEMON} MemoryMax=8M MemorySwapMax=0", status=None)
    eventually(lambda: unit("MainPID") not in (pid, "0"), timeout=PATIENT_S)
    run(f"systemctl set-property --runtime {DAEMON} MemoryMax=1G")

    eventually(lambda: unit("ActiveState") == "active", timeout=PATIENT_S)
    assert "oom" in run(f"journalctl --no-pager -u {DAEMON} | grep -i oom")
    assert ctl("agent show bystander")["pid"] == agent


def test_stop_ends_every_agent_and_leaves_no_group() -> None:
    run("systemctl stop descartesd")

    keeper = "/sys/fs/cgroup/descartes.slice/descartes-agents.slice/descartes-keeper.service"
    eventually(lambda: not Path(keeper).exists(), timeout=PATIENT_S)
    assert run("pgrep -u descartesd,descartes-keeper,descartes-agent", status=1) == ""
