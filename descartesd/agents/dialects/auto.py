"""Tells the dialects apart, line by line: for a command nobody has said anything of."""

from __future__ import annotations

from descartesd.agents.dialects import claude, codex, gemini, opencode, pi, seed
from descartesd.agents.dialects.line import Line
from descartesd.agents.dialects.report import Report

_ALL = (claude.read, codex.read, opencode.read, gemini.read, pi.read, seed.read)


def read(line: Line, report: Report) -> bool:
    """Take a line into the report; False for one no dialect has."""
    return any(each(line, report) for each in _ALL)
