"""Scenario 7: a hundred agents are started at once; one more waits for its turn."""

from __future__ import annotations

import time

from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import MAX_AGENTS, Stage
from descartesd.errors import DescartesError
from descartesd.wire.agent import AgentInfo, AgentSpawn, AgentSpec
from descartesd.wire.batch import Selector
from descartesd.wire.methods import AGENT_SPAWN


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    agents = _start(stage, findings)
    more = _one_more(stage, findings)
    _end(stage, agents, findings)
    ended = stage.admin.agent.wait(id=more.id, deadline_s=10)
    findings.same((ended.state, ended.attempt), ("completed", 1), "the one more has had its turn")


def _start(stage: Stage, findings: Findings) -> list[AgentInfo]:
    members = stage.operators()
    each, more = divmod(MAX_AGENTS, len(members))
    shares = {member: each + (at < more) for at, member in enumerate(members)}
    spawn = AgentSpawn(spec=AgentSpec(command=["sleep", "3600"], labels={"demo": "load"}))
    began = time.monotonic()
    for member, share in shares.items():
        member.ask(AGENT_SPAWN, *[spawn] * share)
    answers = [
        answer for member, share in shares.items() for answer in member.answers(AGENT_SPAWN, share)
    ]
    seconds = time.monotonic() - began
    refused = [answer for answer in answers if isinstance(answer, DescartesError)]
    agents = [answer for answer in answers if isinstance(answer, AgentInfo)]
    findings.check(
        not refused and len(agents) == MAX_AGENTS,
        f"{MAX_AGENTS} are started",
        refused[:1],
    )
    findings.same(stage.admin.server.health().agents.get("running"), MAX_AGENTS, "all run")
    pids = {agent.pid for agent in agents if agent.pid and processes.is_alive(agent.pid)}
    findings.same(len(pids), MAX_AGENTS, "each is a process of its own")
    findings.show(f"{MAX_AGENTS} agents at once: {MAX_AGENTS / seconds:.0f} started a second")
    return agents


def _one_more(stage: Stage, findings: Findings) -> AgentInfo:
    more = stage.admin.agent.spawn(spec=AgentSpec(command=["true"]))
    findings.same(
        (more.state, more.queue_position, more.pid), ("queued", 1, None), "one more waits"
    )
    running = stage.admin.server.health().agents.get("running")
    findings.same(running, MAX_AGENTS, "so that no more run than configured")
    return more


def _end(stage: Stage, agents: list[AgentInfo], findings: Findings) -> None:
    began = time.monotonic()
    done = stage.admin.batch.run(verb="kill", select=Selector(labels={"demo": "load"}))
    seconds = time.monotonic() - began
    findings.same((done.succeeded, done.failed), (MAX_AGENTS, 0), "all end")
    left = [agent.pid for agent in agents if agent.pid and processes.is_alive(agent.pid)]
    findings.check(not left, "no process is left", left)
    findings.show(f"one more waits for its turn; one request ends all in {seconds:.1f} s")
