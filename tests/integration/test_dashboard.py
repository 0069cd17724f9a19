"""A real Prometheus scrapes a real daemon under load: every panel of the dashboard has data."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import InvalidArgumentError, NotFoundError
from tests.faults.peers import Peers, unknown_keys
from tests.support.agents import SLEEP, left_empty, sh, spec
from tests.support.eventually import eventually
from tests.support.server import Server, free_port

PACKAGING = Path(__file__).parents[2] / "packaging"
PROMETHEUS = shutil.which("prometheus")
SPENT = '{"type":"turn.completed","usage":{"input_tokens":70,"output_tokens":30}}'
COST = '{"type":"result","subtype":"success","is_error":false,"total_cost_usd":0.5}'

pytestmark = pytest.mark.skipif(
    PROMETHEUS is None, reason="prometheus is Debian's package of that name"
)


class Prometheus:
    """One that scrapes every second, with the alerts of the project."""

    def __init__(self, directory: Path, target: str) -> None:
        self.port = free_port()
        self.log = directory / "prometheus.log"
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{PACKAGING}/prometheus/alerts.yml]\n"
            "scrape_configs:\n"
            f"  - {{job_name: descartesd, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
        options = {
            "config.file": config,
            "storage.tsdb.path": directory / "data",
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(PROMETHEUS), *(f"--{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expr)["result"]
        return found

    def is_ready(self) -> bool:
        try:
            return bool(self.query("up == 1"))
        except OSError:
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@contextmanager
def watched(directory: Path) -> Iterator[tuple[Server, Prometheus]]:
    listen = f"127.0.0.1:{free_port()}"
    with Server({"server.max_agents": 8}) as server:
        with server.config.open("a") as file:
            file.write('\n[plugins]\nenabled = ["prometheus"]\n')
            file.write(f'[plugins.prometheus]\nlisten = "{listen}"\n')
        server.start()
        prometheus = Prometheus(directory, listen)
        try:
            eventually(prometheus.is_ready, timeout=30)
            yield server, prometheus
        finally:
            prometheus.close()


def load(server: Server, client: Client) -> None:
    """Something of everything that is counted."""
    for script in (f"echo '{SPENT}'", f"echo '{COST}'", "exit 3", "echo out; echo err >&2"):
        client.agent.spawn(spec=sh(script, events=script.startswith("echo '")))
    client.agent.stop(id=client.agent.spawn(spec=spec(*SLEEP)).id)
    for _ in range(20):
        client.server.hello()
    with pytest.raises(NotFoundError):
        client.agent.get(id="nobody")
    with pytest.raises(InvalidArgumentError):
        client.agent.spawn(spec=spec("/nonexistent"))
    with Peers(server) as peers:
        peers.connect(unknown_keys(server))
        assert peers.connect().refusal("agent.fly") == "unimplemented"


def exprs() -> dict[str, str]:
    """The query of each target of each panel, as Grafana would send it."""
    panels = json.loads((PACKAGING / "grafana" / "dashboard.json").read_text())["panels"]
    variables = {"$instance": ".+", "$__rate_interval": "10s", "$__range": "1m"}
    found = {}
    for panel in panels:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for name, value in variables.items():
                expr = expr.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = expr
    return found


def test_every_panel_of_the_dashboard_has_data_and_every_alert_is_evaluated(
    tmp_path: Path,
) -> None:
    missing = exprs()
    assert len(missing) > 30
    with watched(tmp_path) as (server, prometheus), server.client() as client, left_empty(client):

        def has_data() -> bool:
            load(server, client)
            for title, expr in list(missing.items()):
                values = [each["value"][1] for each in prometheus.query(expr)]
                if any(value != "NaN" for value in values):
                    del missing[title]
            return not missing

        try:
            eventually(has_data, timeout=40, step=0.5)
        except AssertionError:
            pytest.fail(f"no data for {missing}")

        groups = prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) > 10
        assert {rule["health"] for rule in rules} == {"ok"}
