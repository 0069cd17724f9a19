"""A real server with the plugin enabled, scraped as Prometheus would."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from descartesd.observe.declared import DECLARED
from tests.support.agents import left_empty, sh, until_state
from tests.support.eventually import eventually
from tests.support.server import Server, free_port

PROMTOOL = shutil.which("promtool")


class Exporting(Server):
    """A server that serves its metrics."""

    def __init__(self, listen: str | None = None) -> None:
        super().__init__()
        self.listen = listen or f"127.0.0.1:{free_port()}"
        with self.config.open("a") as file:
            file.write('\n[plugins]\nenabled = ["prometheus"]\n')
            file.write(f'[plugins.prometheus]\nlisten = "{self.listen}"\n')

    def scrape(self) -> str:
        url = f"http://{self.listen}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()

    def serves(self) -> str:
        try:
            return self.scrape()
        except OSError:
            return ""


@pytest.fixture(scope="module")
def exporting() -> Iterator[Exporting]:
    with Exporting() as made:
        made.start()
        eventually(made.serves)
        with made.client() as client, left_empty(client):
            until_state(client, client.agent.spawn(spec=sh("exit 3")).id, "failed")
            yield made


def test_every_declared_metric_is_served(exporting: Exporting) -> None:
    text = exporting.scrape()

    for group in DECLARED.values():
        for metric in group:
            assert f"# TYPE {metric.name} {metric.kind}\n" in text
    exits = 'descartesd_agent_exits_total{reason="exit",state="failed"} 1.0\n'
    assert eventually(lambda: exits in exporting.scrape())


@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Debian's package prometheus")
def test_promtool_finds_nothing_to_complain_of(exporting: Exporting) -> None:
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"],
        input=exporting.scrape(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_plugin_is_listed_and_found_well_by_its_authors_check(exporting: Exporting) -> None:
    with exporting.client() as client:
        (found,) = (each for each in client.plugin.list().plugins if each.name == "prometheus")
        assert (found.state, found.errors) == ("loaded", 0)
    done = exporting.ctl("plugin", "check", "prometheus")
    assert done.returncode == 0, done.stderr


def test_scrape_costs_the_loop_little(exporting: Exporting) -> None:
    with exporting.client() as client:
        for _ in range(20):
            exporting.scrape()
        lags = [check for part, check in client.server.health().checks.items() if "loop" in part]
    assert lags == ["ok"]


def test_server_whose_address_is_taken_serves_all_else_says_so_and_tries_again() -> None:
    with Exporting() as server:
        host, _, port = server.listen.rpartition(":")
        with socket.create_server((host, int(port))):
            server.start()
            with server.client() as client:
                reasons = eventually(lambda: client.server.health().reasons)
            assert f"cannot serve metrics on {server.listen}" in " ".join(reasons)

        eventually(server.serves, timeout=20)
        with server.client() as client:
            eventually(lambda: client.server.health().status == "ok")


def test_setting_that_is_wrong_keeps_the_server_from_starting() -> None:
    with Exporting("9464") as server:
        server.start(wait=False)
        assert server.process is not None

        assert server.process.wait(timeout=20) == 78
        assert "plugins.prometheus.listen" in server.log_text()
