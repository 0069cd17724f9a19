"""What a plugin imports: the mark of a hook, what it may register, and the errors it may raise."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pluggy
from msgspec import Struct

from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.template import Part, check_argv, check_json, check_said, places
from descartesd.wire.agent import NAME_PATTERN, AgentInfo
from descartesd.wire.methods import ROLES
from descartesd.wire.server import Empty, Role, RoleName

__all__ = [
    "hookimpl",
    "Action",
    "ActionContext",
    "AgentInfo",
    "Backend",
    "Empty",
    "Role",
    "ConflictError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnavailableError",
]

TaskVia = Literal["argv", "stdin", "file"]

hookimpl = pluggy.HookimplMarker("descartesd")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionContext:
    """Who runs an action, with which role, and on which agent as it was then."""

    caller: str
    role: RoleName
    agent: AgentInfo | None
    log: logging.Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An operation of a plugin's own, which clients run by its name.

    `run(context, params)` answers what msgpack can hold. A coroutine function runs in the server's
    event loop, which it must never hold up, and is cancelled after `timeout_s` seconds. A plain
    function runs in a thread of its own, which nobody can end: after `timeout_s` its answer is no
    longer waited for.

    `params` is the type its parameters are decoded as, a Struct that forbids unknown fields, or
    `dict` where anything is taken.

    Raises ValueError where one of them cannot be.
    """

    name: str
    summary: str
    run: Callable[[ActionContext, Any], Any]
    params: type[Struct | dict[str, Any]] = Empty
    permission: Role = "operator"
    timeout_s: float = 30.0
    needs_agent: bool = False

    def __post_init__(self) -> None:
        if re.fullmatch(NAME_PATTERN, self.name) is None:
            raise ValueError(
                f"action '{self.name}': expected a name of a lower-case letter and up to 62"
                " lower-case letters, digits, '.', '_' or '-'"
            )
        if self.permission not in ROLES:
            raise ValueError(
                f"action '{self.name}': permission is '{self.permission}', expected one of"
                f" {', '.join(ROLES)}"
            )
        if not self.timeout_s > 0:
            raise ValueError(f"action '{self.name}': timeout_s is {self.timeout_s}, expected more")
        if self.params is not dict and not _is_strict(self.params):
            raise ValueError(
                f"action '{self.name}': expected params to be dict, or a msgspec.Struct with"
                " forbid_unknown_fields=True"
            )


def _is_strict(kind: type) -> bool:
    return issubclass(kind, Struct) and kind.__struct_config__.forbid_unknown_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A program clients start by name, without the right to run any command.

    `start`, `resume` and `chat` are argument vectors with places such as `{task}`; a group in
    them stands there only when all it names is given. `chat` reads JSON lines from its stdin:
    `say` is what is said, `interrupt` ends a turn and is acknowledged by a line that has all of
    `interrupted`, `allow` and `deny` answer a question. `needs` says how to install the program.

    A task goes by `argv`, by `stdin`, or as a `file` the program opens at `{task_file}`; one too
    long for an argument goes by stdin where its place stands in a group.

    Raises ValueError where one of them cannot be.
    """

    name: str
    start: Sequence[Part]
    resume: Sequence[Part] = ()
    chat: Sequence[Part] = ()
    # Its values may be keys.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    dialect: str = "auto"
    task_via: TaskVia = "argv"
    # What the tool levels a client may ask for stand for.
    tools: Mapping[str, str] = field(default_factory=dict)
    say: str | None = None
    interrupt: str | None = None
    interrupted: str | None = None
    allow: str | None = None
    deny: str | None = None
    needs: str = ""

    def __post_init__(self) -> None:
        if re.fullmatch(NAME_PATTERN, self.name) is None:
            raise ValueError(
                f"backend '{self.name}': expected a name of a lower-case letter and up to 62"
                " lower-case letters, digits, '.', '_' or '-'"
            )
        if self.task_via not in get_args(TaskVia):
            raise ValueError(
                f"backend '{self.name}': task_via: it is '{self.task_via}', expected one of"
                f" {', '.join(get_args(TaskVia))}"
            )
        self._check("start", self.start, check_argv)
        for name in ("resume", "chat"):
            if template := getattr(self, name):
                self._check(name, template, check_argv)
        for name in ("say", "interrupt", "interrupted", "allow", "deny"):
            if (template := getattr(self, name)) is not None:
                self._check(name, template, check_said if name == "say" else check_json)
        if self.task_via == "file" and "task_file" not in places(self.start):
            raise ValueError(f"backend '{self.name}': task_via: 'file' needs {{task_file}}")
        if self.chat and self.say is None:
            raise ValueError(f"backend '{self.name}': say: chat needs it, the line that is said")
        if self.interrupt is not None and self.interrupted is None:
            raise ValueError(f"backend '{self.name}': interrupted: interrupt needs it, its answer")

    def _check(self, name: str, template: Any, check: Callable[[Any], None]) -> None:
        try:
            check(template)
        except ValueError as exc:
            raise ValueError(f"backend '{self.name}': {name}: {exc}") from exc
