"""Scenario 4: status, pause, resume, signal and stop do to every process what they say."""

from __future__ import annotations

import re
import signal
import time

from descartesd.client import Client
from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import Stage
from descartesd.wire.agent import StopSpec

_WATCHED_S = 0.3
_MOST_BYTES = 1_048_576
# Two processes that are busy without end, and say what signals they get.
_PAIR = """
import os, signal
def told(number, _):
    os.write(1, b"%d got %d\\n" % (os.getpid(), number))
    if number == signal.SIGTERM:
        if child:
            os.waitpid(child, 0)
        os._exit(0)
signal.signal(signal.SIGUSR1, told)
signal.signal(signal.SIGTERM, told)
child = os.fork()
os.write(1, b"pid %d\\n" % os.getpid())
while True:
    sum(range(200_000))
    os.write(1, b"working\\n")
"""
_DEAF = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"deaf\\n")
while True:
    signal.pause()
"""


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    client = stage.admin
    client.agent.spawn(spec=stage.python(_PAIR, name="pair"))
    pids = findings.until(lambda: _pids(client), "an agent of two processes works")
    shown = client.agent.get(id="pair")
    findings.same(shown.state, "running", "its status is running")
    findings.check(shown.pid in pids, "its pid is its process", f"{shown.pid}, not in {pids}")
    _pause(client, pids, findings)
    _signal(client, pids, findings)
    findings.show("of two busy processes neither computes while paused; resumed, both get a signal")
    _stop(client, pids, findings)
    _stop_deaf(stage, findings)
    findings.show(f"stop ends both by TERM, and by KILL after {_WATCHED_S} s what ignores it")


def _pids(client: Client) -> list[int]:
    """Both processes, once both have begun to work."""
    output = client.agent.output(id="pair").data
    pids = [int(pid) for pid in re.findall(rb"pid (\d+)\n", output)]
    return pids if len(pids) == 2 else []


def _pause(client: Client, pids: list[int], findings: Findings) -> None:
    findings.same(client.agent.pause(id="pair").state, "paused", "pause answers paused")
    before = _progress(client, pids)
    time.sleep(_WATCHED_S)
    findings.same(
        _progress(client, pids), before, f"for {_WATCHED_S} s neither computes nor writes"
    )
    findings.same(client.agent.resume(id="pair").state, "running", "resume answers running")
    findings.until(
        lambda: all(map(int.__lt__, before, _progress(client, pids))), "both compute and write on"
    )


def _progress(client: Client, pids: list[int]) -> list[int]:
    """Processor time of each process, and the bytes written."""
    total = client.agent.output(id="pair", tail=0).total
    return [*(processes.cpu_ticks(pid) for pid in pids), total]


def _signal(client: Client, pids: list[int], findings: Findings) -> None:
    reached = client.agent.signal(id="pair", signal="USR1").processes
    findings.same(reached, len(pids), "a signal reaches both")
    findings.until(lambda: _heard(client, signal.SIGUSR1) == set(pids), "both have got it")


def _heard(client: Client, number: signal.Signals) -> set[int]:
    """The processes that say they got a signal."""
    output = client.agent.output(id="pair", limit=_MOST_BYTES).data
    return {int(pid) for pid in re.findall(rb"(\d+) got %d\n" % number, output)}


def _stop(client: Client, pids: list[int], findings: Findings) -> None:
    stopped = client.agent.stop(id="pair")
    outcome = stopped.outcome
    findings.same(
        (stopped.state, outcome and outcome.reason, outcome and outcome.exit_code),
        ("terminated", "stopped", 0),
        "stop ends it in order",
    )
    findings.same(_heard(client, signal.SIGTERM), set(pids), "both were asked by TERM")
    findings.check(not any(map(processes.is_alive, pids)), "none is left", pids)
    findings.refused(lambda: client.agent.pause(id="pair"), "conflict", "what ended cannot pause")


def _stop_deaf(stage: Stage, findings: Findings) -> None:
    client = stage.admin
    deaf = stage.python(_DEAF, name="deaf", stop=StopSpec(grace_s=_WATCHED_S))
    client.agent.spawn(spec=deaf)
    findings.until(lambda: client.agent.output(id="deaf").data, "another agent ignores TERM")
    began = time.monotonic()
    ended = client.agent.stop(id="deaf")
    took = time.monotonic() - began
    findings.same(ended.outcome and ended.outcome.signal, signal.SIGKILL, "stop ends it by KILL")
    findings.check(took >= _WATCHED_S, f"after its {_WATCHED_S} s of grace", f"{took:.3f} s")
    again = client.agent.respawn(id="deaf")
    findings.same((again.id, again.state), (ended.id, "running"), "respawn starts it once more")
