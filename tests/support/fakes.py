"""Specs of agents that run the test double of the coding CLIs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from descartesd.wire.agent import AgentSpec
from tests.support.agents import spec

PROGRAM = Path(__file__).parents[1] / "fakes" / "agent.py"


def fake(dialect: str, task: str = "", *options: str, **fields: Any) -> AgentSpec:
    """Describe an agent that speaks a dialect and does what the directives of its task say."""
    argv = [sys.executable, "-I", "-S", str(PROGRAM), "--dialect", dialect, *options]
    fields.setdefault("events", True)
    return spec(*argv, *(["--", task] if task else []), **fields)
