"""Backends by name: what a spec may ask of one, and the launch it makes of a spec."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

import msgspec

from descartesd.api import Backend
from descartesd.config.backend import Backend as Settings
from descartesd.errors import (
    InvalidArgumentError,
    StartupRefusedError,
    UnimplementedError,
)
from descartesd.template import Part, fill_argv, fill_json, places, required
from descartesd.wire.agent import AgentSpec
from descartesd.wire.codec import nearest

ARGUMENT_BYTES = 128 * 1024 - 1  # without the NUL at its end: MAX_ARG_STRLEN, execve(2)
LINE_BYTES = 256 * 1024  # what the keeper holds for an agent that does not read at once
CONTEXT = "AGENT_CONTEXT"
# A file without a name is what the program finds as its stdin, and may open as often as it likes.
_TASK_FILE = "/dev/stdin"
# The fields of a spec that fill a place of a template.
_FILLING = ("model", "tools", "system_prompt", "subagents")
_BACKEND_ONLY = ("task", "context", *_FILLING, "extra_args", "chat")


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation a further attempt goes on with; without `task` the spec's is given again."""

    session: str
    task: str | None = None


class Start(NamedTuple):
    """What to start; `stdin_data` is what it finds on its stdin first, without a pipe all of it."""

    argv: list[str]
    env: dict[str, str]
    stdin: Literal["null", "pipe"]
    stdin_data: bytes | None

    def __repr__(self) -> str:
        return f"Start({self.argv[:1]}, {sorted(self.env)})"


class Backends:
    """All backends of a server."""

    def __init__(self, backends: Iterable[Backend] = ()) -> None:
        self._by_name = {
            backend.name: backend for backend in sorted(backends, key=attrgetter("name"))
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def get(self, name: str | None) -> Backend | None:
        """One by its name, None for a command or where it is no longer there."""
        return None if name is None else self._by_name.get(name)

    def find(self, name: str) -> Backend:
        """One by its name; raises InvalidArgumentError naming those there are."""
        found = self._by_name.get(name)
        if found is None:
            near = nearest(name, self._by_name)
            raise InvalidArgumentError(
                f"spec.backend: this server has no '{name}', expected one of {', '.join(self)}",
                hint=f"did you mean '{near}'" if near else f"configure it as [backends.{name}]",
            )
        return found


def with_configured(
    registered: Iterable[Backend], configured: Mapping[str, Settings], origin: str
) -> Backends:
    """The registered backends, each with what the configuration says instead, and its own.

    Raises StartupRefusedError naming `origin`, the configuration's file, and the setting where they
    do not make a backend.
    """
    found = {backend.name: backend for backend in registered}
    for name, settings in configured.items():
        try:
            found[name] = _configured(name, found.get(name), settings)
        except ValueError as exc:
            fault = str(exc).removeprefix(f"backend '{name}': ")
            raise StartupRefusedError(f"{origin}: backends.{name}.{fault}") from exc
    return Backends(found.values())


def _configured(name: str, known: Backend | None, settings: Settings) -> Backend:
    given = {field: value for field, value in msgspec.structs.asdict(settings).items() if value}
    path = given.pop("path", None)
    if "command" in given:
        given["start"] = given.pop("command")
    if known is None and "start" not in given:
        raise ValueError(f"backend '{name}': command: it is missing, the argument vector")
    if known is not None and "env" in given:
        given["env"] = {**known.env, **given["env"]}
    made = Backend(name=name, **given) if known is None else dataclasses.replace(known, **given)
    if path is None:
        return made
    return dataclasses.replace(
        made,
        start=_with_program(made.start, path),
        resume=_with_program(made.resume, path),
        chat=_with_program(made.chat, path),
    )


def _with_program(template: Sequence[Part], path: str) -> Sequence[Part]:
    return (path, *template[1:]) if template else ()


def check_fields(spec: AgentSpec, backends: Backends) -> None:
    """Refuse a spec its backend, or a command, has no use for.

    Raises InvalidArgumentError naming the field, UnimplementedError where there is no chat.
    """
    if spec.backend is None:
        for name in _BACKEND_ONLY:
            if getattr(spec, name):
                raise InvalidArgumentError(
                    f"spec.{name}: a command has no use for it", hint="name a backend as well"
                )
        return
    backend = backends.find(spec.backend)
    template = _template(spec, backend, None)
    for name in _FILLING:
        if getattr(spec, name) is not None and name not in places(template):
            raise InvalidArgumentError(
                f"spec.{name}: backend '{backend.name}' has no use for it",
                hint="give options of its program as extra_args",
            )
    _check_task(spec, backend, template)
    _check_streams(spec, backend)
    if spec.subagents is not None:
        _check_subagents(spec.subagents)
    start(spec, backend)


def _check_task(spec: AgentSpec, backend: Backend, template: Sequence[Part]) -> None:
    if spec.chat:
        return
    takes = backend.task_via != "argv" or "task" in places(template)
    if takes and not spec.task:
        raise InvalidArgumentError(
            f"spec.task: backend '{backend.name}' needs one, and none is given",
            hint="say what it is to do, or start it as a chat",
        )
    if spec.task is not None and not takes:
        raise InvalidArgumentError(f"spec.task: backend '{backend.name}' has no use for it")


def _check_streams(spec: AgentSpec, backend: Backend) -> None:
    if spec.stdin == "pipe" and not spec.chat:
        raise InvalidArgumentError(
            f"spec.stdin: backend '{backend.name}' would wait for the end of an open pipe",
            hint="start it as a chat to speak to it" if backend.chat else None,
        )
    if spec.tty is not None and (spec.chat or backend.task_via != "argv"):
        raise InvalidArgumentError("spec.tty: the agent is given its words by a stdin of its own")


def _check_subagents(text: str) -> None:
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"spec.subagents: expected JSON: {exc}") from exc
    if not isinstance(decoded, dict):
        raise InvalidArgumentError("spec.subagents: expected a JSON object, one key a sub-agent")


def start(spec: AgentSpec, backend: Backend, resume: Resume | None = None) -> Start:
    """What starts this spec, in a conversation of its own or going on with an earlier one.

    Raises InvalidArgumentError naming the field, UnimplementedError where the backend cannot.
    """
    template = _template(spec, backend, resume)
    task = (resume.task if resume else None) or spec.task
    values = {
        name: value for name in _FILLING if (value := getattr(spec, name)) and name != "tools"
    }
    if spec.tools is not None:
        values["tools"] = _tools(spec.tools, backend)
    if resume is not None:
        values["session"] = resume.session
    data = _opening(spec, backend, resume)
    if task is not None and not spec.chat:
        if _goes_by_argv(task, backend, template):
            values["task"] = task
        else:
            data = task.encode()
            values["task_file"] = _TASK_FILE
    missing = sorted(required(template) - values.keys())
    if missing:
        raise InvalidArgumentError(
            f"spec.{missing[0]}: backend '{backend.name}' needs one, and none is given"
        )
    env = dict(backend.env)
    if spec.context is not None:
        env[CONTEXT] = spec.context
    argv = fill_argv(template, values, spec.extra_args)
    return Start(argv, env, "pipe" if spec.chat else spec.stdin, data)


def _template(spec: AgentSpec, backend: Backend, resume: Resume | None) -> Sequence[Part]:
    if spec.chat:
        if not backend.chat:
            raise UnimplementedError(
                f"backend '{backend.name}' has no chat", hint="start it with a task instead"
            )
        if resume is not None and "session" not in places(backend.chat):
            raise UnimplementedError(
                f"backend '{backend.name}' cannot go on with a conversation: its chat has no place"
                " {session}",
                hint=f'give it one, as ["--resume={{session}}"] in backends.{backend.name}.chat;'
                " or respawn without --resume",
            )
        return backend.chat
    if resume is None:
        return backend.start
    if not backend.resume:
        raise UnimplementedError(
            f"backend '{backend.name}' cannot go on with a conversation",
            hint="respawn it without --resume",
        )
    return backend.resume


def _goes_by_argv(task: str, backend: Backend, template: Sequence[Part]) -> bool:
    """Raises InvalidArgumentError for a task that is too long and may not go another way."""
    if backend.task_via != "argv":
        return False
    size = len(task.encode())
    if size <= ARGUMENT_BYTES - _longest_prefix(template):
        return True
    if "task" not in required(template):
        return False
    raise InvalidArgumentError(
        f"spec.task: it has {size} bytes, and an argument may have {ARGUMENT_BYTES}",
        hint=f'set backends.{backend.name}.task_via to "stdin" or "file"',
    )


def _longest_prefix(template: Sequence[Part]) -> int:
    """What may stand before a value in its element."""
    elements = [each for part in template for each in ((part,) if isinstance(part, str) else part)]
    return max(len(os.fsencode(element)) for element in elements)


def _tools(wanted: str, backend: Backend) -> str:
    level = backend.tools.get(wanted)
    if level is not None:
        return level
    if backend.tools and wanted.isalpha() and wanted.islower():
        raise InvalidArgumentError(
            f"spec.tools: '{wanted}' is no level of backend '{backend.name}', expected one of"
            f" {', '.join(sorted(backend.tools))}",
            hint="or name the tools themselves, as Read,Grep",
        )
    return wanted


def _opening(spec: AgentSpec, backend: Backend, resume: Resume | None) -> bytes | None:
    """The line a chat begins with, None where nothing is to be said yet."""
    if not spec.chat:
        return None
    # What the conversation began with has been said in it.
    task = spec.task if resume is None else resume.task
    return None if task is None else said(backend, task)


def said(backend: Backend, text: str) -> bytes:
    """The line that says this in a chat; raises InvalidArgumentError where it is too long."""
    line = fill_json(backend.say or "", {"text": text})
    if len(line) > LINE_BYTES:
        raise InvalidArgumentError(
            f"text: it makes a line of {len(line)} bytes, more than {LINE_BYTES}",
            hint="put it into a file the agent may read",
        )
    return line


def without_program(backend: Backend, exc: InvalidArgumentError) -> InvalidArgumentError:
    """The error of a start whose backend's program is not there, or cannot be run."""
    configure = f"name it in the configuration: backends.{backend.name}.path"
    return InvalidArgumentError(
        f"backend '{backend.name}': {exc.message}",
        hint=f"install it with: {backend.needs}; or {configure}" if backend.needs else configure,
    )
