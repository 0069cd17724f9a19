"""The container image, run as platforms run it: nobody's privileges, a root that is read only."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from tests.container.podman import CONFINED, Container, Podman, with_image
from tests.support import manifests
from tests.support.agents import spec
from tests.support.eventually import eventually
from tests.support.server import BIN, free_port

UID = "10001"
# What a server needs that starts agents as another user, on volumes that are not its own.
FEW = ("CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID")


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with with_image() as made:
        yield made


@pytest.fixture(scope="module")
def container(podman: Podman) -> Iterator[Container]:
    with podman.container("--network", "none") as made:
        yield made


def status_of(container: Container, pid: int) -> dict[str, str]:
    return dict(re.findall(r"(\w+):\s+(.*)", container.run("cat", f"/proc/{pid}/status")))


def test_it_is_nobody_special_and_says_how_it_is_asked(podman: Podman) -> None:
    config = podman.config

    assert config["User"] == f"{UID}:{UID}"
    assert list(config["ExposedPorts"]) == ["5555/tcp"]
    assert set(config["Volumes"]) == {"/var/lib/descartesd", "/run/descartes", "/home/descartesd"}


def test_it_serves_in_the_foreground_with_keys_of_its_own(container: Container) -> None:
    health = container.ctl("server", "health")

    assert (health["status"], health["isolation"]) == ("ok", "none")
    assert container.run("sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline").startswith("/usr/bin/tini")
    assert container.run("ls", "/var/lib/descartesd/keys").split() == [
        *("authority.key", "authority.pub", "host.key"),
    ]
    assert "ro" in container.run("sh", "-c", "grep ' / ' /proc/mounts").split()[3].split(",")
    assert container.run("sh", "-c", "command -v systemctl", status=127) == ""


def test_agent_is_spawned_through_it_and_has_no_privilege(container: Container) -> None:
    agent = container.ctl("agent", "spawn", "--name", "sleeper", "--", "sleep", "300")
    done = container.ctl(
        "agent", "spawn", "--name", "told", "--wait", "--", "sh", "-c", "id -u; pwd"
    )

    status = status_of(container, agent["pid"])
    assert status["Uid"].split() == [UID] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert done["state"] == "completed"
    assert container.run("descartesctl", "agent", "logs", "told") == f"{UID}\n/home/descartesd"


def test_orphans_are_buried_and_leave_no_zombie(container: Container) -> None:
    container.run("sh", "-c", "(sleep 0.1 & sleep 0.1 &); true")
    agent = "(sleep 0.1; true) & exec sleep 300"
    container.ctl("agent", "spawn", "--name", "parent", "--", "sh", "-c", f"({agent}) & exit 0")

    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status; true"
    eventually(lambda: container.run("sh", "-c", zombies) == "", timeout=20, step=0.2)
    eventually(lambda: container.ctl("agent", "show", "parent")["state"] == "completed", timeout=20)


def test_stop_ends_agents_in_order_and_the_next_start_knows_them(container: Container) -> None:
    keys = container.run("cat", "/var/lib/descartesd/keys/host.key")

    assert container.stop() == 0
    container.start()

    told = container.ctl("agent", "show", "sleeper")
    assert (told["state"], told["outcome"]["reason"]) == ("terminated", "stopped")
    assert container.run("cat", "/var/lib/descartesd/keys/host.key") == keys


def test_client_outside_of_it_spawns_an_agent_over_tcp(podman: Podman, tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    variables = {"DESCARTES_SERVER__ENDPOINT": endpoint}
    issuing = "descartesctl cert issue ci --role operator --out /tmp/ci.toml >/dev/null"
    profile = tmp_path / "ci.toml"
    profile.touch(mode=0o600)
    with podman.container("--network", "host", environ=variables) as container:
        profile.write_text(container.run("sh", "-c", f"{issuing} && cat /tmp/ci.toml"))

        with Client(profile) as client:
            agent = client.agent.spawn(spec=spec("sh", "-c", "echo from outside"))
            ended = client.agent.wait(id=agent.id)
            told = client.agent.output(id=agent.id, stream="stdout")

        assert ended.state == "completed"
        assert told.data == b"from outside\n"


def test_pod_of_the_manifests_serves_with_the_keys_of_a_secret(
    podman: Podman, tmp_path: Path
) -> None:
    volumes = _volumes(tmp_path)
    spec = manifests.pod()
    (first,), (server,) = spec["initContainers"], spec["containers"]
    running = ("--read-only-tmpfs=false", f"--user={spec['securityContext']['runAsUser']}")

    entry, *words = first["command"]
    preparing = ("run", "--rm", "--ulimit=host", "--network=none", *CONFINED, *running)
    podman.run(*preparing, *_mounts(first, volumes), f"--entrypoint={entry}", podman.image, *words)
    environ = {each["name"]: each["value"] for each in server["env"]}
    options = ("--network=none", *running, *_mounts(server, volumes))
    with podman.container(*options, environ=environ) as container:
        container.run(*server["livenessProbe"]["exec"]["command"])
        agent = container.ctl("agent", "spawn", "--wait", "--", "sh", "-c", "touch ~/made; exit 0")
        served = container.run("cat", "/run/descartes/server.pub")

    assert agent["state"] == "completed"
    assert served == (tmp_path / "s/run/server.pub").read_text().strip()
    assert (volumes["home"] / "made").exists()
    # What came in the Secret is on no volume that lasts.
    assert not (volumes["state"] / "keys").exists()


def _volumes(directory: Path) -> dict[str, Path]:
    """What a kubelet makes of the volumes of a pod with a group of its own."""
    subprocess.run([BIN / "descartesd", "init", directory / "s"], check=True, capture_output=True)
    gid = manifests.pod()["securityContext"]["fsGroup"]
    made = {
        name: directory / name for name in ("keys", "credentials", "state", "run", "home", "tmp")
    }
    for path in made.values():
        path.mkdir()
        os.chown(path, 0, gid)
        path.chmod(0o2777)
    hidden = made["keys"] / "..data"
    hidden.mkdir()
    for name in ("host.key", "authority.key"):
        (hidden / name).write_bytes((directory / "s/keys" / name).read_bytes())
        os.chown(hidden / name, 0, gid)
        (hidden / name).chmod(0o440)
        (made["keys"] / name).symlink_to(f"..data/{name}")
    return made


def _mounts(container: dict[str, Any], volumes: dict[str, Path]) -> list[str]:
    mounts = []
    for each in container["volumeMounts"]:
        mode = "ro" if each.get("readOnly") else "rw"
        mounts.append(f"--volume={volumes[each['name']]}:{each['mountPath']}:{mode}")
    return mounts


def test_root_with_five_capabilities_separates_agents_from_the_server(podman: Podman) -> None:
    few = [f"--cap-add={each}" for each in FEW]
    variables = {"DESCARTES_SERVER__RUNNER__USER": "descartes-agent"}
    with podman.container("--user", "0", "--network", "none", *few, environ=variables) as container:
        tried = "id -u; cat /var/lib/descartesd/keys/host.key; descartesctl agent list"
        spawning = ("agent", "spawn", "--name", "thief", "--wait", "--", "sh", "-c", tried)
        agent = container.ctl(*spawning, status=1)

        assert agent["outcome"]["exit_code"] == 4
        told = container.run("descartesctl", "agent", "logs", "--stream", "stdout", "thief")
        assert told == "10002"
