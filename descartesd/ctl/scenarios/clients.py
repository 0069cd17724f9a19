"""Scenario 2: clients connect, each with a process, a certificate and a role of its own."""

from __future__ import annotations

import os

from msgspec.structs import replace

from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import OPERATORS, Stage
from descartesd.keys.curve import generate
from descartesd.keys.profile import create_profile, load_profile
from descartesd.wire.agent import AgentSpawn, AgentSpec
from descartesd.wire.methods import AGENT_SPAWN, SERVER_HELLO
from descartesd.wire.server import Empty

_UNAUTHENTICATED = 4


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    _connections(stage, findings)
    findings.show("four clients, each a process with its certificate, come, are known, and leave")
    _roles(stage, findings)
    _stranger(stage, findings)
    findings.show("an observer may start nothing, and a key nobody has signed is let in nowhere")


def _connections(stage: Stage, findings: Findings) -> None:
    before = stage.admin.server.stats().clients
    members = [*stage.operators(), stage.member("eve", "observer")]
    for member in members:
        member.ask(SERVER_HELLO, Empty())
    for member in members:
        (hello,) = member.answers(SERVER_HELLO, 1)
        role = "operator" if member.name in OPERATORS else "observer"
        known = getattr(hello, "identity", hello)
        found = (getattr(known, "name", known), getattr(known, "role", None))
        findings.same(found, (member.name, role), f"{member.name} is known as {role}")
    pids = {os.getpid(), *(member.pid for member in members)}
    findings.same(len(pids), 1 + len(members), "they are processes of their own")
    there = stage.admin.server.stats().clients
    findings.same(there - before, len(members), f"the server counts {len(members)} more")
    findings.same(stage.dismiss(members[-2]), 0, f"{members[-2].name} leaves in order")
    findings.until(
        lambda: stage.admin.server.stats().clients == there - 1, "the server counts one less"
    )


def _roles(stage: Stage, findings: Findings) -> None:
    spawn = AgentSpawn(spec=AgentSpec(command=["true"]))
    findings.refused(
        lambda: stage.member("eve").call(AGENT_SPAWN, spawn),
        "permission_denied",
        "an observer may start nothing",
    )


def _stranger(stage: Stage, findings: Findings) -> None:
    pair, path = generate(), stage.profile("stranger")
    known = load_profile(stage.profile("bob"))
    stranger = replace(
        known, public_key=pair.public_text, secret_key=pair.secret_text, certificate=None
    )
    create_profile(path, stranger)
    done = stage.run("descartesd.ctl.main", "--profile", path, "server", "health")
    findings.same((done.returncode, done.stdout), (_UNAUTHENTICATED, ""), "it is let in nowhere")
