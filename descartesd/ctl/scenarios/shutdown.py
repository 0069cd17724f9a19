"""Scenario 10: the server is killed and comes back, and then everything ends in order."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from descartesd.client import Client
from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.member import Member
from descartesd.ctl.scenarios.stage import Stage
from descartesd.wire.agent import AgentFollow, AgentInfo, AgentRef, AgentSpec
from descartesd.wire.methods import AGENT_FOLLOW, AGENT_WAIT, SERVER_HELLO
from descartesd.wire.server import Empty

_PATIENCE_S = 10.0
_WRITER = """
import itertools, os, sys, time
for number in itertools.count():
    os.write(1, b"line %d\\n" % number)
    time.sleep(0.001)
    if os.path.exists(sys.argv[1]):
        break
"""
_ADDER = "while read a b; do echo $((a+b)); done; exit 7"
_NAMES = ("writer", "adder", "paused", "idle")


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    enough = os.path.join(stage.work, "enough")
    _start(stage, enough)
    follower = stage.member("eve", "observer")
    follower.ask(AGENT_FOLLOW, AgentFollow(id="writer", streams=["stdout"]))
    stage.member("ada").call(SERVER_HELLO, Empty())
    _crash(stage, findings)
    Path(enough).touch()
    _nothing_lost(stage, follower, findings)
    _agents_end(stage, findings)
    _server_ends(stage, findings)


def _start(stage: Stage, enough: str) -> None:
    spawn = stage.admin.agent.spawn
    spawn(spec=stage.python(_WRITER, enough, name="writer"))
    spawn(spec=AgentSpec(name="adder", command=["sh", "-c", _ADDER], stdin="pipe"))
    for name in ("paused", "idle"):
        spawn(spec=AgentSpec(name=name, command=["sleep", "3600"]))
    stage.admin.agent.pause(id="paused")


def _crash(stage: Stage, findings: Findings) -> None:
    client = stage.admin
    before = _known(client)
    began = time.monotonic()
    stage.crash()
    pids = [pid for _, pid in before.values()]
    findings.check(all(pid and processes.is_alive(pid) for pid in pids), "the agents live", pids)
    written = _size(stage)
    findings.until(lambda: _size(stage) > written, "one writes on while nobody serves")
    stage.start()
    seconds = time.monotonic() - began
    findings.same(_known(client), before, "their pids and states are as before")
    client.write("adder", b"20 1\n")
    findings.until(
        lambda: client.agent.output(id="adder").data == b"21\n", "stdin and stdout still work"
    )
    hello = stage.member("ada").call(SERVER_HELLO, Empty())
    findings.same(hello.identity.name, "ada", "a client process has connected again by itself")
    findings.show(f"killed under four agents the server is back after {seconds:.1f} s, they run on")


def _known(client: Client) -> dict[str, tuple[str, int | None]]:
    agents = (client.agent.get(id=name) for name in _NAMES)
    return {agent.name: (agent.state, agent.pid) for agent in agents}


def _size(stage: Stage) -> int:
    """Bytes in the files agents write to: those can be looked at without a server."""
    with os.scandir(os.path.join(stage.directory, "state", "output")) as files:
        return sum(file.stat().st_size for file in files)


def _nothing_lost(stage: Stage, follower: Member, findings: Findings) -> None:
    """What is kept, and what was followed over the crash, is what the writer wrote."""
    client = stage.admin
    ended = client.agent.wait(id="writer", deadline_s=_PATIENCE_S)
    findings.same(ended.state, "completed", "the writer comes to its end")
    kept = client.agent.output(id="writer").data
    written = b"".join(b"line %d\n" % number for number in range(kept.count(b"\n")))
    findings.check(kept != b"" and kept == written, "its output has no gap", kept[-100:])
    followed = b""
    while chunk := follower.item(AGENT_FOLLOW):
        followed += chunk.data
    digest = hashlib.sha256(kept).hexdigest()
    findings.same(
        hashlib.sha256(followed).hexdigest(),
        digest,
        "a follower has the same bytes",
    )
    findings.show(f"of {len(kept)} bytes none is lost or doubled (sha256 {digest[:12]})")


def _agents_end(stage: Stage, findings: Findings) -> None:
    client = stage.admin
    findings.same(client.server.drain().draining, True, "the server takes no more agents")
    findings.refused(
        lambda: client.agent.spawn(spec=AgentSpec(command=["true"])),
        "unavailable",
        "a further one is refused",
    )
    client.agent.close_stdin(id="adder")
    outcome = client.agent.wait(id="adder", deadline_s=_PATIENCE_S).outcome
    findings.same(outcome and outcome.exit_code, 7, "an agent ends with its own exit status")
    stopped = client.agent.stop(id="paused")
    findings.same(stopped.state, "terminated", "even a paused one stops")


def _server_ends(stage: Stage, findings: Findings) -> None:
    """A last agent and a last client are there: one is stopped, the other answered."""
    findings.same(stage.dismiss(stage.member("eve", "observer")), 0, "a client leaves in order")
    ada = stage.member("ada")
    keeper = stage.admin.server.health().keeper.pid or 0
    waiting = stage.admin.server.stats().methods["agent.wait"].requests
    ada.ask(AGENT_WAIT, AgentRef(id="idle"))
    findings.until(
        lambda: stage.admin.server.stats().methods["agent.wait"].requests > waiting,
        "another waits for an agent",
    )
    findings.same(stage.stop(), 0, "the server ends with status 0")
    (answer,) = ada.answers(AGENT_WAIT, 1)
    findings.check(
        isinstance(answer, AgentInfo) and answer.state == "terminated",
        "the client was told how its agent ended",
        answer,
    )
    findings.same(stage.dismiss(ada), 0, "and leaves in order")
    findings.check(not processes.is_alive(keeper), "the keeper has ended", keeper)
    left = processes.inside(stage.root)
    findings.check(not left, "no process is left", [processes.command(pid) for pid in left])
    gone = Client(stage.profile("admin"), connect_timeout_s=0.5, timeout_s=1.0)
    with gone:
        findings.refused(gone.server.health, "unavailable", "nobody answers any more")
    findings.show("agents stop, clients leave, the server ends: no process is left")
