"""A backend: a program clients start by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from descartesd.template import Part, check_argv, check_json, check_said, places
from descartesd.wire.agent import NAME_PATTERN

TaskVia = Literal["argv", "stdin", "file"]


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
