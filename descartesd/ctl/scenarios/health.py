"""Scenario 5: what the server says of its health and counts of its work is what happened."""

from __future__ import annotations

import os
import signal

from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import Stage
from descartesd.errors import DescartesError
from descartesd.wire.methods import SERVER_HEALTH
from descartesd.wire.server import Empty, ServerStats

_EACH = 50


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    _answers(stage, findings)
    _counts(stage, findings)
    _sickness(stage, findings)


def _answers(stage: Stage, findings: Findings) -> None:
    before = stage.admin.server.stats()
    members = stage.operators()
    for member in members:
        member.ask(SERVER_HEALTH, *[Empty()] * _EACH)
    answers = [each for member in members for each in member.answers(SERVER_HEALTH, _EACH)]
    asked = len(answers)
    after = stage.admin.server.stats()
    unwell = [each for each in answers if isinstance(each, DescartesError) or each.status != "ok"]
    findings.check(not unwell, f"{asked} times ok", unwell[:1])
    counted = _requests(after) - _requests(before)
    findings.same(counted, asked, f"the statistics count {asked} more")
    latency = after.methods["server.health"].latency
    findings.check(
        sum(latency.counts) == _requests(after) and 0 < latency.p50_s <= latency.p99_s < 1,
        "with the latency of each",
        latency,
    )
    findings.show(
        f"{asked} requests of three clients are answered and counted,"
        f" p50 {latency.p50_s * 1e3:.2f} ms, p99 {latency.p99_s * 1e3:.2f} ms"
    )


def _requests(stats: ServerStats) -> int:
    return stats.methods["server.health"].requests if "server.health" in stats.methods else 0


def _counts(stage: Stage, findings: Findings) -> None:
    client = stage.admin
    before = client.server.stats()
    client.agent.spawn(spec=stage.python("raise SystemExit(3)", name="three"))
    ended = client.agent.wait(id="three").state
    findings.refused(
        lambda: client.agent.get(id="nobody"), "not_found", "a request fails as it must"
    )
    after = client.server.stats()
    findings.same(
        (after.spawns.succeeded - before.spawns.succeeded, after.failures - before.failures),
        (1, 1),
        "one start and one failure are counted",
    )
    findings.same(after.agents.get(ended), 1, "agents are counted by state")
    findings.check(after.uptime_s > before.uptime_s, "its uptime grows", after.uptime_s)


def _sickness(stage: Stage, findings: Findings) -> None:
    """No agent runs now: killing their keeper harms none."""
    keeper = stage.admin.server.health().keeper.pid or 0
    findings.check("descartesd.keeper" in processes.command(keeper), "the keeper's pid is true")
    os.kill(keeper, signal.SIGKILL)
    reasons = findings.until(
        lambda: stage.admin.server.health().reasons, "without its keeper it says degraded"
    )
    findings.check("keeper" in reasons[0], "and why", reasons)
    findings.until(
        lambda: stage.admin.server.health().status == "ok", "it starts another and is ok again"
    )
    findings.show("with its keeper killed it is degraded, until it has started another")
