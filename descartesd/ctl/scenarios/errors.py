"""Scenario 6: what is wrong is refused with its reason, and a time-out leaves no orphan."""

from __future__ import annotations

import os
import signal
import time

from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import Stage
from descartesd.wire.agent import AgentSpawn, AgentSpec
from descartesd.wire.methods import AGENT_SPAWN

_STARTUP_REFUSED = 78
_FAULTY = """
[server]
endpoint = "localhost"
max_agent = 5

[monitoring]
log_level = "loud"
"""
_TIMEOUT_S = 1.0
_KEY = "demo-late-spawn"


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    _refusals(stage, findings)
    _configuration(stage, findings)
    findings.show("what is unknown, wrong or badly configured is refused with its reason")
    _late_reply(stage, findings)
    findings.show("a spawn slower than its client's 1 s leaves one agent, fetched by its key")


def _refusals(stage: Stage, findings: Findings) -> None:
    client = stage.admin
    findings.refused(
        lambda: client.agent.get(id="no-such-agent"), "not_found", "an unknown agent is not found"
    )
    refusal = findings.refused(
        lambda: client.agent.spawn(spec=AgentSpec(command=[""])),
        "invalid_argument",
        "an empty command is refused",
    )
    findings.check("spec.command" in refusal.message, "with the field at fault", refusal.message)
    findings.refused(
        lambda: client.agent.spawn(spec=AgentSpec(command=["no-such-program"])),
        "invalid_argument",
        "so is a program that is nowhere",
    )
    findings.same(client.agent.list().total, 0, "nothing of it is left")


def _configuration(stage: Stage, findings: Findings) -> None:
    path = os.path.join(stage.root, "faulty.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(_FAULTY)
    done = stage.run("descartesd.main", "--config", path)
    findings.same(done.returncode, _STARTUP_REFUSED, "it does not start")
    missing = [
        key
        for key in ("server.endpoint", "server.max_agent", "monitoring.log_level")
        if key not in done.stderr
    ]
    findings.check(not missing, "and names all three", done.stderr)


def _late_reply(stage: Stage, findings: Findings) -> None:
    member = stage.member("ada")
    spawn = AgentSpawn(spec=AgentSpec(name="late", command=["sleep", "3600"]))
    keeper = stage.admin.server.health().keeper.pid or 0
    began = time.monotonic()
    # What starts agents stands still: the request is taken, its answer comes too late.
    os.kill(keeper, signal.SIGSTOP)
    try:
        findings.refused(
            lambda: member.call(AGENT_SPAWN, spawn, deadline_s=_TIMEOUT_S, idem=_KEY),
            "deadline_exceeded",
            "a spawn gives up after its 1 s",
        )
    finally:
        os.kill(keeper, signal.SIGCONT)
    findings.check(time.monotonic() - began >= _TIMEOUT_S, "and no earlier")
    agent = member.call(AGENT_SPAWN, spawn, idem=_KEY)
    findings.same((agent.name, agent.state), ("late", "running"), "its key fetches the agent")
    running = processes.inside(stage.work)
    findings.same(running, [agent.pid], "it is the only process, no orphan beside it")
    findings.same(stage.admin.agent.list().total, 1, "and the only agent")
    other = AgentSpawn(spec=AgentSpec(command=["true"]))
    findings.refused(
        lambda: member.call(AGENT_SPAWN, other, idem=_KEY),
        "conflict",
        "the key fetches nothing else",
    )
