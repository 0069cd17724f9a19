"""The demo: its ten scenarios pass, each can fail, and it leaves nothing however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from descartesd.ctl.demo import SCENARIOS
from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import CheckError, Findings
from descartesd.errors import NotFoundError
from tests.support.eventually import eventually
from tests.support.server import BIN

# Python imports a module of this name at each start: here it changes the server alone.
HOOK = "sitecustomize.py"
SERVER_ONLY = """
import os, sys
if "descartesd.main" in sys.orig_argv and "--check-config" not in sys.orig_argv:
"""
LYING = """
    from descartesd.agents.keeper_link import KeeperLink
    request = KeeperLink.request
    def lie(link, op, **fields):
        return request(link, "resume" if op == "pause" else op, **fields)
    KeeperLink.request = lie
"""
BROKEN = """
    if "--config" in sys.orig_argv:
        os.write(2, b"out of order")
        os._exit(1)
"""


def demo(*words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [BIN / "descartesctl", "demo", *words],
        capture_output=True,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )


def directories() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("descartes-demo-")}


def changed_server(directory: Path, change: str) -> dict[str, str]:
    (directory / HOOK).write_text(SERVER_ONLY + change)
    return {"PYTHONPATH": str(directory)}


def by_number(told: dict[str, Any]) -> dict[int, Any]:
    return {scenario["number"]: scenario for scenario in told["scenarios"]}


def test_all_ten_scenarios_pass_and_nothing_is_left() -> None:
    before = directories()

    done = demo("--json", DESCARTES_MAX_AGENTS="3", DESCARTES_PROFILE="/nowhere.toml")

    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, b""), done.stdout.decode()
    assert list(by_number(told)) == list(range(1, 11))
    assert told["passed"] == 10
    for scenario in told["scenarios"]:
        assert scenario["ok"]
        assert len(scenario["checks"]) >= 5
        assert all(check["ok"] for check in scenario["checks"])
    assert sum(scenario["seconds"] for scenario in told["scenarios"]) < 45
    # Another demo of this host may be at work.
    eventually(lambda: directories() <= before, timeout=60)


@pytest.mark.parametrize("number", [3, 6])
def test_a_scenario_alone_sets_up_what_it_needs(number: int) -> None:
    done = demo("--scenario", str(number))

    first, *shown, last = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stdout.decode()
    assert first.split()[:2] == ["✓", str(number)]
    assert SCENARIOS[number - 1].name in first
    assert shown
    assert last == "1 of 1 scenarios passed"


def test_a_server_that_only_says_it_has_paused_is_found_out(tmp_path: Path) -> None:
    words = ("--json", "--scenario", "4", "--scenario", "5")

    done = demo(*words, **changed_server(tmp_path, LYING))

    told = json.loads(done.stdout)
    lied, after = by_number(told)[4], by_number(told)[5]
    assert done.returncode == 1
    assert (lied["ok"], after["ok"], told["passed"]) == (False, True, 1)
    assert lied["checks"][-1]["check"] == "for 0.3 s neither computes nor writes"
    assert lied["checks"][-1]["found"].startswith("expected [")


def test_without_a_server_every_scenario_fails_and_tells_why(tmp_path: Path) -> None:
    before = directories()

    done = demo(**changed_server(tmp_path, BROKEN))

    shown = done.stdout.decode()
    assert done.returncode == 1
    assert (
        shown.count("✗ the scenario runs to its end: the server ended at once: out of order") == 10
    )
    assert shown.endswith("\n0 of 10 scenarios passed\n")
    # Another demo of this host may be at work.
    eventually(lambda: directories() <= before, timeout=60)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_ended_from_outside_cleans_up(ending: signal.Signals) -> None:
    with subprocess.Popen(
        [BIN / "descartesctl", "demo", "--scenario", "10"], stdout=subprocess.PIPE
    ) as running:
        root = eventually(lambda: root_of(running.pid), timeout=20)
        eventually(lambda: processes.inside(f"{root}/work"), timeout=20)
        running.send_signal(ending)
        status = running.wait(timeout=30)

    assert status == 130
    assert processes.inside(root) == []
    assert not os.path.exists(root)


def root_of(pid: int) -> str:
    """Directory of a demo, once it has started a server there; before that none."""
    for child in psutil.Process(pid).children():
        for word in processes.command(child.pid):
            if word.endswith("/server/descartesd.toml"):
                return word.removesuffix("/server/descartesd.toml")
    return ""


def test_keep_leaves_the_directory_and_no_process() -> None:
    done = demo("--keep", "--json", "--scenario", "8")

    root = json.loads(done.stdout)["kept"]
    try:
        assert done.returncode == 0
        assert processes.inside(root) == []
        assert b"server.ready" in Path(root, "demo.log").read_bytes()
        config = Path(root, "server", "descartesd.toml")
        again = [str(BIN / "descartesd"), "--check-config", "--config", str(config)]
        assert subprocess.run(again, check=False).returncode == 0
    finally:
        shutil.rmtree(root)


def test_a_scenario_that_does_not_exist_is_a_usage_error() -> None:
    done = demo("--scenario", "11")

    assert done.returncode == 2
    assert b"'11' is no scenario: expected 1 to 10" in done.stderr


def test_a_check_that_does_not_hold_is_noted_with_what_was_found() -> None:
    findings = Findings()

    findings.same(2 + 2, 4, "sums are right")
    with pytest.raises(CheckError):
        findings.same(2 + 2, 5, "sums are wrong")
    findings.broke(CheckError("noted already"))

    assert [check.item() for check in findings.checks] == [
        {"check": "sums are right", "ok": True},
        {"check": "sums are wrong", "ok": False, "found": "expected 5, found 4"},
    ]


def refuse() -> None:
    raise NotFoundError("there is none")


def test_a_refusal_must_come_and_be_the_expected_one() -> None:
    findings = Findings()

    assert findings.refused(refuse, "not_found", "it is refused").message == "there is none"
    for request in (refuse, lambda: "done"):
        with pytest.raises(CheckError):
            findings.refused(request, "conflict", "it is refused")

    assert [check.found for check in findings.checks] == [
        "",
        "not_found: there is none",
        "it was answered with 'done'",
    ]


def test_what_never_becomes_true_fails_in_time() -> None:
    findings = Findings()

    with pytest.raises(CheckError, match=r"it comes: not within 0\.05 s, but None"):
        findings.until(lambda: None, "it comes", within_s=0.05)
