"""Options of `agent spawn` that are a backend's, and secrets from our own environment."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from descartesd.errors import InvalidArgumentError


def add_backend_arguments(parser: ArgumentParser) -> None:
    """Add what is asked of a backend."""
    add = parser.add_argument
    add("--backend", metavar="B", help="start this instead of a command: claude, codex, …")
    add("--task", metavar="T", help="what the backend is to do; '-': read from our stdin")
    add("--model", metavar="M", help="the model it uses")
    add("--system-prompt", metavar="S", help="added to its system prompt")
    add("--context", metavar="C", help="given to it as the variable AGENT_CONTEXT")
    add("--tools", metavar="LEVEL", help="tools it may use: a level as readonly, or their names")
    add("--subagents", metavar="FILE", help="JSON file of its sub-agents")
    add("--extra-arg", metavar="A", action="append", default=[], help="argument of its program")
    add("--chat", action="store_true", help="keep it open for 'agent say' and 'agent answer'")


def add_secret_arguments(parser: ArgumentParser) -> None:
    """Add the option for variables whose values come from our own environment."""
    parser.add_argument(
        "--secret-env",
        metavar="K",
        action="append",
        default=[],
        help="variable with the value it has here, never stored nor shown",
    )


def backend_fields(args: Namespace) -> dict[str, Any]:
    """The fields of a spec, those that are given."""
    given = {
        "backend": args.backend,
        "task": task(args),
        "model": args.model,
        "system_prompt": args.system_prompt,
        "context": args.context,
        "tools": args.tools,
        "subagents": None if args.subagents is None else _file(args.subagents),
        "extra_args": args.extra_arg or None,
        "chat": args.chat or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def task(args: Namespace) -> str | None:
    """What is to be done; raises InvalidArgumentError where it is no text."""
    return None if args.task is None else text_or_stdin(args.task, "the task")


def text_or_stdin(word: str, what: str) -> str:
    """The word itself, for '-' our stdin; raises InvalidArgumentError where that is no text."""
    if word != "-":
        return word
    if sys.stdin is None:
        raise InvalidArgumentError(f"{what} is to be read from stdin, which is closed")
    return _decoded(sys.stdin.buffer.read(), what)


def secrets(names: Iterable[str]) -> dict[str, str]:
    """Values from our own environment; raises InvalidArgumentError naming what is not there."""
    missing = sorted(name for name in names if name not in os.environ)
    if missing:
        raise InvalidArgumentError(
            f"--secret-env: {', '.join(missing)} is not in the environment of this command"
        )
    return {name: os.environ[name] for name in names}


def _file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return _decoded(file.read(), f"'{path}'")
    except OSError as exc:
        raise InvalidArgumentError(f"--subagents: '{path}': {exc.strerror}") from exc


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidArgumentError(f"{what} is not valid UTF-8") from exc
