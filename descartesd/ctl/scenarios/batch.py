"""Scenario 8: many agents are started, shown and controlled by one request."""

from __future__ import annotations

from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import Stage
from descartesd.wire.agent import AgentSpec
from descartesd.wire.batch import BatchResult, Selector

_TEAMS = ("red", "blue")
_EACH = 6


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    _spawn(stage, findings)
    _control(stage, findings)
    findings.show("12 agents are started by one request, half of them paused and resumed by label")
    _fail_fast(stage, findings)
    ended = stage.admin.batch.run(verb="stop", select=Selector(all=True))
    findings.same(
        (ended.succeeded, set(_states(ended).values())),
        (len(_TEAMS) * _EACH, {"terminated"}),
        "stop of all ends all",
    )
    findings.show("one failure stops no other, or with fail_fast all the rest; one stop ends all")


def _name(team: str, number: int) -> str:
    return f"{team}-{number}"


def _spawn(stage: Stage, findings: Findings) -> None:
    specs = [
        AgentSpec(name=_name(team, number), command=["sleep", "3600"], labels={"team": team})
        for team in _TEAMS
        for number in range(_EACH)
    ]
    started = stage.admin.batch.spawn(specs=specs)
    findings.same((started.succeeded, started.failed), (len(specs), 0), "one request starts all")
    names = [item.agent.name for item in started.results if item.agent]
    findings.same(names, [spec.name for spec in specs], "its results stand in order")


def _control(stage: Stage, findings: Findings) -> None:
    batch, reds = stage.admin.batch, Selector(labels={"team": "red"})
    trial = batch.run(verb="pause", select=reds, dry_run=True)
    findings.same(trial.succeeded, _EACH, "a dry run tells whom it would meet")
    everyone = Selector(all=True)
    before = _states(batch.run(verb="get", select=everyone))
    findings.same(set(before.values()), {"running"}, "and does nothing")
    paused = batch.run(verb="pause", select=reds)
    findings.same((paused.succeeded, paused.failed), (_EACH, 0), "pause meets one team")
    expected = {
        _name(team, number): "paused" if team == "red" else "running"
        for team in _TEAMS
        for number in range(_EACH)
    }
    status = batch.run(verb="get", select=everyone)
    findings.same(_states(status), expected, "batch status shows who is paused")
    resumed = batch.run(verb="resume", select=reds)
    findings.same(set(_states(resumed).values()), {"running"}, "resume lets it go on")


def _states(result: BatchResult) -> dict[str, str]:
    return {item.agent.name: item.agent.state for item in result.results if item.agent}


def _fail_fast(stage: Stage, findings: Findings) -> None:
    batch = stage.admin.batch
    ids = [_name("blue", 0), "nobody", _name("blue", 1)]
    went_on = batch.run(verb="pause", ids=ids)
    findings.same(
        [item.ok for item in went_on.results], [True, False, True], "a failure stops no other"
    )
    error = went_on.results[1].error
    findings.same(error and error.code, "not_found", "and is told with its reason")
    ids = ["nobody", *(_name("blue", number) for number in range(_EACH))]
    stopped = batch.run(verb="kill", ids=ids, fail_fast=True)
    findings.same(stopped.succeeded, 0, "fail_fast begins nothing more after one")
    alive = stage.admin.agent.list(labels={"team": "blue"}, states=["running", "paused"]).total
    findings.same(alive, _EACH, "and nobody was killed")
