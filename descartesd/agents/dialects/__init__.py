"""What agents say of themselves on stdout, dialect by dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from descartesd.agents.dialects import auto, claude, codex, gemini, opencode, pi, seed
from descartesd.agents.dialects.line import Line
from descartesd.agents.dialects.report import Report

# Takes one line into the report; False for a line the dialect does not have.
Read = Callable[[Line, Report], bool]

DIALECTS: Final[Mapping[str, Read]] = {
    "auto": auto.read,
    "claude": claude.read,
    "codex": codex.read,
    "gemini": gemini.read,
    "opencode": opencode.read,
    "pi": pi.read,
    "qwen": claude.read,
    "seed": seed.read,
}
