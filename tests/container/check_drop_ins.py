"""The drop-ins of the package's examples on a real systemd: what each promises holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.container.host import DAEMON, KEEPER, Host, with_package
from tests.support.eventually import eventually

EXAMPLES = Path(__file__).parents[2] / "systemd" / "drop-ins"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with with_package() as made:
        made.run("systemctl start descartesd")
        yield made


@contextmanager
def copied(host: Host, name: str) -> Iterator[None]:
    """Copy one to where it says itself that it belongs."""
    text = (EXAMPLES / name).read_text()
    (directory,) = [line.split()[-1] for line in text.splitlines() if "Copy to /etc" in line]
    host.put(f"{directory}{name}", text)
    host.run("systemctl daemon-reload")
    yield
    host.run(f"rm {directory}{name}; systemctl daemon-reload")
    host.run(f"systemctl restart {KEEPER} {DAEMON}")


def test_agents_outlive_a_stop_where_they_are_to(host: Host) -> None:
    with copied(host, "keep-agents.conf"):
        host.run("descartesctl agent spawn --name stays -- sleep 3000")
        agent = host.agent("stays")

        host.run("systemctl stop descartesd")
        assert host.is_active(KEEPER)
        host.run("systemctl start descartesd")

        assert (host.agent("stays")["state"], host.agent("stays")["pid"]) == (
            *("running", agent["pid"]),
        )
        host.run("systemctl stop descartesd descartes-keeper")
        assert host.run(f"ls /proc/{agent['pid']}", status=2)
        host.run("systemctl start descartesd")


def test_confined_agents_work_in_their_home_and_reach_no_others(host: Host) -> None:
    tries = "touch ~/own && echo home; ls /home || echo closed; touch /usr/x || echo whole"
    with copied(host, "agents-confined.conf"):
        host.run(f"systemctl restart {KEEPER}")
        eventually(lambda: host.ctl("server health")["status"] == "ok", timeout=30)

        host.run(f"descartesctl agent spawn --name confined --wait -- sh -c '{tries}'")
        host.run("descartesctl agent spawn --name screen --tty --wait -- tty")

        told = host.run("descartesctl agent logs --stream stdout confined")
        assert told.split() == ["home", "closed", "whole"]
        assert host.run("descartesctl agent logs screen").startswith("/dev/pts/")
        score = host.run(f"systemd-analyze security --no-pager {KEEPER} | tail -n 1")
        assert float(score.split(":")[1].split()[0]) < 3.5


def test_this_host_gets_in_where_addresses_are_filtered(host: Host) -> None:
    with copied(host, "open-to-the-network.conf"):
        host.run("cd /root; descartesctl cert issue near --role observer --out near.toml")
        host.run("systemctl restart descartesd")

        assert host.unit(DAEMON, "IPAddressDeny")
        host.run("descartesctl --profile /root/near.toml server info")
        assert host.ctl("server health")["status"] == "ok"
