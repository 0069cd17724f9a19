"""Alerts and dashboard speak of metrics there are, and the alerts of what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from descartesd.observe.declared import DECLARED

PACKAGING = Path(__file__).parents[2] / "packaging"
ALERTS = PACKAGING / "prometheus" / "alerts.yml"
TESTS = PACKAGING / "prometheus" / "alerts.test.yml"
DASHBOARD = PACKAGING / "grafana" / "dashboard.json"
PROMTOOL = shutil.which("promtool")
KINDS = {each.name: each.kind for group in DECLARED.values() for each in group}

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool comes with Debian's package prometheus"
)


def names_in(text: str) -> set[str]:
    found = set(re.findall(r"\bdescartesd_[a-z_]+\b", text))
    return {re.sub(r"_(bucket|sum|count)$", "", each) for each in found}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ALERTS.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", [ALERTS, TESTS, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_exists(path: Path) -> None:
    found = names_in(path.read_text())

    assert found
    assert found <= KINDS.keys()


def test_every_alert_is_tested_for_firing() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    fired = re.findall(r'alertname="(\w+)"', TESTS.read_text())

    assert alerts == fired


def test_every_alert_says_how_bad_it_is_what_it_means_and_what_to_do() -> None:
    for rule in ALERTS.read_text().split("- alert: ")[1:]:
        assert re.search(r"labels: \{severity: (critical|warning)\}", rule), rule
        assert 'summary: "' in rule, rule
        assert 'description: "' in rule, rule
        assert "  for: " in rule, rule


@needs_promtool
def test_promtool_takes_the_alerts() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS.name)


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS.name)


def test_panels_of_the_dashboard_have_titles_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]

    assert len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (column, line)
        for place in places
        for column in range(place["x"], place["x"] + place["w"])
        for line in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24
