"""Scenario 3: three clients start two agents each, at once, and the agents do real work."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import msgspec

from descartesd.client import Client
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.member import Member
from descartesd.ctl.scenarios.stage import PACKAGE, Stage
from descartesd.wire.agent import AgentInfo, AgentSpawn, AgentSpec
from descartesd.wire.event import EventFollow
from descartesd.wire.methods import AGENT_SPAWN, EVENT_FOLLOW

_PATIENCE_S = 10.0
_MOST_BYTES = 1_048_576
_ADDER_EXIT = 7

_FILES = """
import os, sys
def files():
    for place, _, names in sorted(os.walk(sys.argv[1])):
        yield from (os.path.join(place, name) for name in sorted(names) if name.endswith(".py"))
"""
_WORDS = f"{_FILES}\nprint(sum(len(open(path, 'rb').read().split()) for path in files()))"
_SUMS = f"""{_FILES}
import hashlib
for path in files():
    print(hashlib.sha256(open(path, "rb").read()).hexdigest(), path)
"""
_FUNCTIONS = f"""{_FILES}
import ast
trees = (ast.parse(open(path, "rb").read()) for path in files())
print(sum(isinstance(node, ast.FunctionDef) for tree in trees for node in ast.walk(tree)))
"""
_SUITE = """
import unittest
class Sums(unittest.TestCase):
    def test_sum(self): self.assertEqual(sum(range(101)), 5050)
    def test_order(self): self.assertEqual(sorted([3, 1, 2]), [1, 2, 3])
    def test_text(self): self.assertEqual("fleet".upper(), "FLEET")
unittest.main()
"""
_ADDER = "while read a b; do echo $((a+b)); done; exit 7"
_SUMS_ASKED, _SUMS_TOLD = b"2 3\n40 2\n", b"5\n42\n"
_PYTHON_ASKED, _PYTHON_TOLD = b"fleet = [3, 1, 2]\nsorted(fleet)\n", b"[1, 2, 3]\n"


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    since = stage.admin.server.hello().last_event
    observer = stage.member("eve", "observer")
    observer.ask(EVENT_FOLLOW, EventFollow(since=since))
    # A copy: nobody edits it while it is counted.
    source = os.path.join(stage.work, "source")
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    agents = _spawn(stage, source, findings)
    _talk(stage.admin, findings)
    ended = {name: stage.admin.agent.wait(id=name, deadline_s=_PATIENCE_S) for name in agents}
    _results(stage.admin, ended, source, findings)
    findings.show("three clients start two agents each, at once: tests, counts, sums, python -i")
    _lives(observer, ended, since, findings)
    findings.show("each result is right, and an observer is told of every start and end")


def _spawn(stage: Stage, source: str, findings: Findings) -> list[str]:
    python = sys.executable
    wanted = {
        "suite": AgentSpec(command=[python, "-c", _SUITE]),
        "words": AgentSpec(command=[python, "-c", _WORDS, source]),
        "sums": AgentSpec(command=[python, "-c", _SUMS, source]),
        "functions": AgentSpec(command=[python, "-c", _FUNCTIONS, source]),
        "adder": AgentSpec(command=["sh", "-c", _ADDER], stdin="pipe"),
        "python": AgentSpec(command=[python, "-iqu"], stdin="pipe"),
    }
    specs = [msgspec.structs.replace(spec, name=name) for name, spec in wanted.items()]
    members = stage.operators()
    shares = {member: specs[2 * at : 2 * at + 2] for at, member in enumerate(members)}
    for member, share in shares.items():
        member.ask(AGENT_SPAWN, *(AgentSpawn(spec=spec) for spec in share))
    for member, share in shares.items():
        for spec, agent in zip(share, member.answers(AGENT_SPAWN, len(share)), strict=True):
            findings.check(
                isinstance(agent, AgentInfo) and bool(agent.pid),
                f"{member.name} has started {spec.name}",
                agent,
            )
    listed = stage.admin.agent.list().agents
    findings.same({each.name for each in listed}, set(wanted), "the server lists these six")
    findings.same(len({each.owner for each in listed}), len(members), "they have three owners")
    return list(wanted)


def _talk(client: Client, findings: Findings) -> None:
    for name, asked, told in (
        ("adder", _SUMS_ASKED, _SUMS_TOLD),
        ("python", _PYTHON_ASKED, _PYTHON_TOLD),
    ):
        client.write(name, asked)
        answers = partial(_has_written, client, name, told)
        findings.until(answers, f"{name} answers what it is asked")
        client.agent.close_stdin(id=name)


def _results(client: Client, ended: dict[str, AgentInfo], source: str, findings: Findings) -> None:
    codes = {name: agent.outcome.exit_code for name, agent in ended.items() if agent.outcome}
    expected = dict.fromkeys(ended, 0) | {"adder": _ADDER_EXIT}
    findings.same(codes, expected, "exit statuses are those of the programs")
    suite = client.agent.output(id="suite", stream="stderr").data
    findings.check(b"Ran 3 tests" in suite and b"OK" in suite, "the tests passed", suite)
    files = [os.path.join(place, name) for place, _, names in sorted(os.walk(source))
             for name in sorted(names) if name.endswith(".py")]  # fmt: skip
    texts = {path: Path(path).read_bytes() for path in files}
    words = sum(len(text.split()) for text in texts.values())
    findings.same(int(_output(client, "words")), words, f"{words} words, as counted here")
    sums = "".join(f"{hashlib.sha256(text).hexdigest()} {path}\n" for path, text in texts.items())
    findings.same(_output(client, "sums"), sums.encode(), f"{len(texts)} checksums, as made here")
    nodes = (node for text in texts.values() for node in ast.walk(ast.parse(text)))
    functions = sum(isinstance(node, ast.FunctionDef) for node in nodes)
    findings.same(int(_output(client, "functions")), functions, f"{functions} functions, likewise")


def _has_written(client: Client, name: str, told: bytes) -> bool:
    return _output(client, name) == told


def _output(client: Client, name: str) -> bytes:
    return client.agent.output(id=name, limit=_MOST_BYTES).data


def _lives(observer: Member, ended: dict[str, AgentInfo], since: int, findings: Findings) -> None:
    """Each agent's events tell its whole life, and no number is missing."""
    told: dict[str, list[str]] = {name: [] for name in ended}
    numbers: list[int] = []
    while any(agent.state not in told[name] for name, agent in ended.items()):
        event = observer.item(EVENT_FOLLOW)
        if event is None:
            findings.fail("the event stream goes on", f"it ended after {len(numbers)} events")
        numbers.append(event.seq)
        if event.name in told and event.state and event.state not in told[event.name][-1:]:
            told[event.name].append(event.state)
    findings.same(
        told,
        {name: ["starting", "running", agent.state] for name, agent in ended.items()},
        "an observer was told of each start and end",
    )
    findings.same(numbers, [*range(since + 1, since + 1 + len(numbers))], "and missed no event")
