"""What was asked for, in words: the command, or the backend and its task."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from descartesd.wire.agent import AgentSpec


def summary(spec: AgentSpec) -> str:
    """On one line."""
    if spec.backend is None:
        return shlex.join(spec.command)
    return " ".join(f"{spec.backend}: {spec.task or '(chat)'}".split())


def details(spec: AgentSpec) -> list[tuple[str, str]]:
    """One row a field; '-' where there is nothing."""
    if spec.backend is None:
        return [("command", shlex.join(spec.command)), *_environment(spec)]
    return [
        ("backend", f"{spec.backend} (chat)" if spec.chat else spec.backend),
        ("task", " ".join(spec.task.split()) if spec.task else "-"),
        ("model", spec.model or "-"),
        ("tools", spec.tools or "-"),
        ("system prompt", " ".join((spec.system_prompt or "-").split())),
        ("context", "-" if spec.context is None else f"{len(spec.context)} characters"),
        ("sub-agents", "-" if spec.subagents is None else f"{len(spec.subagents)} characters"),
        ("arguments", shlex.join(spec.extra_args) or "-"),
        *_environment(spec),
    ]


def _environment(spec: AgentSpec) -> list[tuple[str, str]]:
    """Names alone, never values."""
    return [
        ("env", " ".join(sorted(spec.env)) or "-"),
        ("env file", spec.env_file or "-"),
        ("secrets", " ".join(sorted(spec.secret_env)) or "-"),
    ]
