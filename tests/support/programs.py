"""Programs for agents, of which it is known how they end and what they write."""

from __future__ import annotations

from typing import NamedTuple

from descartesd.wire.agent import AgentSpec, Restart, State
from tests.support.agents import SLEEP, python, sh, spec

LINE = b"line %06d\n"
LINES = 150
WRITER = f"""
import os, time
for number in range({LINES}):
    os.write(1, {LINE!r} % number)
    time.sleep(0.003)
"""
# A tool in a session of its own, and a process nobody is the parent of any more.
FAMILY = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(300)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""
SOON = "sleep 0.05"
A_FEW_TIMES = Restart(policy="always", delay_s=0.02, max_delay_s=0.02, max_restarts=2)


class Program(NamedTuple):
    """A program, and the states it may come to by itself."""

    spec: AgentSpec
    ends: frozenset[State] = frozenset()
    # How each attempt ends, if it is not to be the whole agent's end.
    attempt_ends: frozenset[State] = frozenset()


PROGRAMS = {
    "sleeper": Program(spec(*SLEEP)),
    "stubborn": Program(sh("trap '' TERM; exec sleep 300")),
    "family": Program(python(FAMILY)),
    "completing": Program(sh(SOON), frozenset(("completed",))),
    "failing": Program(sh(f"{SOON}; exit 3"), frozenset(("failed",))),
    "crashing": Program(sh(f"{SOON}; kill -SEGV $$"), frozenset(("failed",))),
    # Given up, and so failed, after the last of its attempts.
    "recurring": Program(
        sh(SOON, restart=A_FEW_TIMES), frozenset(("failed",)), frozenset(("completed",))
    ),
    "writer": Program(python(WRITER), frozenset(("completed",))),
    # Writes the lines it is given, and completes when its stdin is closed.
    "reader": Program(spec("cat", stdin="pipe")),
}


def lines_by_attempt(text: bytes) -> list[int]:
    """How many whole lines each attempt that has written wrote, without a gap.

    Each counts its lines from 0; the last one may be torn.
    """
    counts = []
    at = 0
    while at < len(text):
        number = 0
        while text.startswith(LINE % number, at):
            at += len(LINE % number)
            number += 1
        at += _torn(text[at:], LINE % number)
        counts.append(number)
    return counts


def _torn(text: bytes, line: bytes) -> int:
    """How much of a line stands before the first line of the next attempt, or before the end."""
    for size in range(len(line)):
        if text.startswith(line[:size]) and (len(text) == size or text.startswith(LINE % 0, size)):
            return size
    raise AssertionError(f"{text[:40]!r} follows where {line!r} was due")
