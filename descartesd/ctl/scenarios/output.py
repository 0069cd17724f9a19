"""Scenario 9: output is kept byte for byte, and can be asked for in every way."""

from __future__ import annotations

import os
from pathlib import Path

from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.member import Member
from descartesd.ctl.scenarios.stage import Stage
from descartesd.wire.agent import AgentFollow
from descartesd.wire.methods import AGENT_FOLLOW

_LINES = 2000
# Half of it at once, the rest when a file is there; bytes no text has, and no newline at the end.
_WRITER = f"""
import os, sys, time
def write(numbers):
    for number in numbers:
        os.write(1, b"line %d \\xff\\n" % number)
        if number % 100 == 0:
            os.write(2, b"warning %d\\n" % number)
write(range({_LINES // 2}))
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
write(range({_LINES // 2}, {_LINES}))
os.write(1, b"the end")
"""
_HALF = b"".join(b"line %d \xff\n" % number for number in range(_LINES // 2))
_WHOLE = b"".join(b"line %d \xff\n" % number for number in range(_LINES)) + b"the end"
_WARNINGS = b"".join(b"warning %d\n" % number for number in range(0, _LINES, 100))


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.ready()
    go_on = os.path.join(stage.work, "go-on")
    stage.admin.agent.spawn(spec=stage.python(_WRITER, go_on, name="writer"))
    follower = stage.member("eve", "observer")
    follower.ask(AGENT_FOLLOW, AgentFollow(id="writer", streams=["stdout"]))
    early = _follow(follower, len(_HALF))
    findings.same(early, _HALF, "a follower has what is written while the agent writes")
    Path(go_on).touch()
    findings.same(_follow(follower), _WHOLE[len(_HALF) :], "and the rest to its end, once")
    _whole(stage, findings)
    findings.show(f"{len(_WHOLE)} bytes, not all of them text, are followed and read back exactly")
    _queries(stage, findings)
    findings.show("they are found by offset, tail, lines and pattern")


def _follow(follower: Member, size: int | None = None) -> bytes:
    """What the follower is sent next: so many bytes, or all there is."""
    data = b""
    while (size is None or len(data) < size) and (chunk := follower.item(AGENT_FOLLOW)):
        data += chunk.data
    return data


def _whole(stage: Stage, findings: Findings) -> None:
    stage.admin.agent.wait(id="writer")
    out = stage.admin.agent.output(id="writer")
    findings.check(out.data == _WHOLE, "stdout is byte for byte what was written", len(out.data))
    findings.same((out.total, out.eof), (len(_WHOLE), True), "with its size and its end")
    err = stage.admin.agent.output(id="writer", stream="stderr").data
    findings.same(err, _WARNINGS, "stderr is kept apart")


def _queries(stage: Stage, findings: Findings) -> None:
    read = stage.admin.agent.output
    part = read(id="writer", offset=1000, limit=50)
    findings.same(part.data, _WHOLE[1000:1050], "50 bytes from offset 1000")
    findings.same(part.next_offset, 1050, "and where to go on")
    lines = _WHOLE.splitlines(keepends=True)
    findings.same(read(id="writer", tail=3).data, b"".join(lines[-3:]), "the last 3 lines")
    first = read(id="writer", lines=5)
    findings.same(first.data, b"".join(lines[:5]), "5 lines from the start")
    following = read(id="writer", lines=5, offset=first.next_offset)
    findings.same(following.data, b"".join(lines[5:10]), "the 5 that follow")
    found = read(id="writer", regex="^line [0-9]*77 ")
    wanted = [line for number, line in enumerate(lines) if number % 100 == 77]
    findings.same(found.data, b"".join(wanted), f"the {len(wanted)} lines a pattern finds")
    offsets = [mark.offset for mark in found.marks]
    findings.same(offsets, [_WHOLE.index(line) for line in wanted], "each with its offset")
    findings.refused(
        lambda: read(id="writer", regex="("), "invalid_argument", "a broken pattern is refused"
    )
