"""Checks a spec beyond its types, and composes what the keeper needs to start it."""

from __future__ import annotations

import os
import pwd
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from descartesd.agents.accounts import keeper_fields, own_account
from descartesd.agents.backend import Backends, Resume, Start, check_fields
from descartesd.agents.backend import start as started_by
from descartesd.agents.bounds import Bounds
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec, Limits, Signal
from descartesd.wire.masking import MASK, is_secret

_SIGNALS = {member.name.removeprefix("SIG"): int(member) for member in signals.Signals}
_ENFORCED_BY_KEEPER = ("memory_bytes", "cpu_percent", "tasks", "run_seconds")
_RESERVED_ENV = ("DESCARTES_AGENT_ID", "DESCARTES_AGENT_NAME")
# What a terminal is taken for unless the agent's own environment says otherwise.
_TERM = "xterm-256color"
# execve(2): argv and environment together; the kernel's own bound is a quarter of the stack.
_ARGUMENTS_MAX = 2 * 1024 * 1024


@dataclass(frozen=True)
class RunnerDefaults:
    """What the configuration says of every agent."""

    working_dir: str | None
    path: tuple[str, ...]
    output_bytes: int
    account: pwd.struct_passwd = field(default_factory=own_account)
    backends: Backends = field(default_factory=Backends)

    def environment(self, account: pwd.struct_passwd) -> Mapping[str, str]:
        """What every agent of an account finds in its environment unless its own says otherwise."""
        return _environment(self.path, account)


@lru_cache(maxsize=256)
def _environment(path: tuple[str, ...], account: pwd.struct_passwd) -> Mapping[str, str]:
    home = account.pw_dir
    places = [os.path.join(home, p[2:]) if p.startswith("~/") else p for p in path]
    return {
        "HOME": home,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "LANG": "C.UTF-8",
        "PATH": ":".join(places),
    }


def check(spec: AgentSpec, backends: Backends) -> None:
    """Refuse what no type can tell; raises InvalidArgumentError naming the field."""
    _check_program(spec)
    texts = _texts(spec)
    for name, text in texts.items():
        refuse_nul(f"spec.{name}", text)
    for name, value in spec.env.items():
        refuse_nul(f"spec.env.{name}", value)
        if value == MASK and is_secret(name):
            raise InvalidArgumentError(
                f"spec.env.{name}: '{MASK}' stands for a value that is not shown",
                hint="give the value itself; a spec as it is shown lacks it",
            )
    for name in (*spec.env, *spec.secret_env):
        if name in _RESERVED_ENV:
            raise InvalidArgumentError(f"spec.env.{name}: this name is set by the server")
    check_fields(spec, backends)
    _check_events(spec)
    size = sum(map(len, (*spec.env.values(), *texts.values())))
    if size > _ARGUMENTS_MAX:
        raise InvalidArgumentError(
            f"spec: command and env have {size} characters, more than {_ARGUMENTS_MAX}"
        )
    for name, path in (("cwd", spec.cwd), ("env_file", spec.env_file)):
        if path is not None:
            refuse_nul(f"spec.{name}", path)
            if not path.startswith("/"):
                raise InvalidArgumentError(f"spec.{name}: '{path}' is not an absolute path")
    signal_number(spec.stop.signal, "spec.stop.signal")


def _check_program(spec: AgentSpec) -> None:
    if spec.backend is not None:
        if spec.command:
            raise InvalidArgumentError(
                "spec: expected a command or a backend, both are given",
                hint="give options of the backend's program as extra_args",
            )
    elif not spec.command:
        raise InvalidArgumentError(
            "spec.command: it is empty", hint="name a program, or a backend and its task"
        )
    elif not spec.command[0]:
        raise InvalidArgumentError("spec.command[0]: the program's name is empty")


def _check_events(spec: AgentSpec) -> None:
    if spec.tty is not None and spec.events:
        raise InvalidArgumentError(
            "spec.tty and spec.events: what a program writes to its terminal is not read as events",
            hint="give one of them: --tty or --events",
        )
    for name in ("tokens", "cost_usd"):
        if getattr(spec.limits, name) is not None and not (spec.events or spec.backend):
            raise InvalidArgumentError(
                f"spec.limits.{name}: what the agent spends is read from its events",
                hint="have its stdout read as JSON lines: spec.events, or spawn with --events",
            )


def dialect_of(spec: AgentSpec, backends: Backends) -> str | None:
    """How the agent's stdout is read as events; None when it is not."""
    if spec.backend is not None:
        dialect = backends.find(spec.backend).dialect
        return None if dialect == "none" else dialect
    return "auto" if spec.events else None


def _texts(spec: AgentSpec) -> dict[str, str]:
    """What may become arguments, by the name of its field."""
    found = {f"command[{number}]": text for number, text in enumerate(spec.command)}
    if spec.extra_args:
        found |= {f"extra_args[{number}]": text for number, text in enumerate(spec.extra_args)}
    for name in ("task", "system_prompt", "context", "subagents"):
        if (text := getattr(spec, name)) is not None:
            found[name] = text
    return found


def refuse_nul(field: str, text: str) -> None:
    """Raise InvalidArgumentError for a text that would end before its end."""
    if "\0" in text:
        raise InvalidArgumentError(f"{field}: a NUL character cannot be passed to a program")


def signal_number(signal: Signal, field: str = "signal") -> int:
    """Turn `TERM`, `SIGTERM`, `15` or 15 into a number; raises InvalidArgumentError."""
    if isinstance(signal, int):
        return signal
    known = _SIGNALS.get(signal)
    if known is not None:
        return known
    if signal.isdigit() and 1 <= int(signal) <= 64:
        return int(signal)
    number = _SIGNALS.get(signal.upper().removeprefix("SIG"))
    if number is None:
        raise InvalidArgumentError(
            f"{field}: '{signal}' is no signal", hint="see the names with: kill -l"
        )
    return number


@dataclass(frozen=True)
class Given:
    """What a start is given that no spec has; `secrets` are never shown."""

    resume: Resume | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    # The server's own unless it says otherwise.
    account: pwd.struct_passwd | None = None
    bounds: Bounds | None = None


def _has_private_tmp(spec: AgentSpec, env: Mapping[str, str], *, is_own: bool) -> bool:
    """Whether it gets a directory of its own for temporary files.

    Coding agents litter; to make and remove one takes a quarter of the time of a start, so that a
    plain command gets none. One named in its environment is its own business.
    """
    return "TMPDIR" not in env and not (spec.backend is None and is_own)


def launch_fields(
    spec: AgentSpec, agent_id: str, name: str, defaults: RunnerDefaults, given: Given
) -> dict[str, Any]:
    """Compose the keeper's spawn fields: program, environment, search path, limits.

    Raises InvalidArgumentError and UnimplementedError where the backend cannot.
    """
    argv, own_env, stdin, stdin_data = _program(spec, defaults.backends, given.resume)
    terminal = {"TERM": _TERM} if spec.tty is not None else {}
    account = given.account or defaults.account
    env = {**defaults.environment(account), **terminal, **own_env}
    over = {
        **spec.env,
        **given.secrets,
        "DESCARTES_AGENT_ID": agent_id,
        "DESCARTES_AGENT_NAME": name,
    }
    whole = {**env, **over}
    is_shared = account.pw_uid == defaults.account.pw_uid
    fields: dict[str, Any] = {
        "agent_id": agent_id,
        "name": name,
        "argv": argv,
        "cwd": spec.cwd or defaults.working_dir or account.pw_dir,
        "env": whole,
        "path": whole["PATH"].split(":"),
        "stdin": stdin,
        "private_tmp": _has_private_tmp(spec, over, is_own=is_shared),
        "output_bytes": spec.limits.output_bytes or defaults.output_bytes,
        "stop": {"signal": signal_number(spec.stop.signal), "grace_s": spec.stop.grace_s},
        **keeper_fields(account),
        **_limits(spec.limits),
    }
    if given.bounds is not None:
        fields["path"] = env["PATH"].split(":")
        if given.bounds.cwd:
            fields["cwd_within"] = given.bounds.cwd
    if spec.on_exit != "kill":
        fields["on_exit"] = spec.on_exit
    if spec.tty is not None:
        fields["tty"] = {"rows": spec.tty.rows, "cols": spec.tty.cols}
    if stdin_data is not None:
        if spec.tty is not None:
            raise InvalidArgumentError(
                f"spec.tty: backend '{spec.backend}' takes its task by stdin, no terminal",
                hint="spawn it without a terminal, or set the backend's task_via to argv or file",
            )
        fields["stdin_data"] = stdin_data
    if spec.env_file is not None:
        # What it sets goes between.
        fields["env"], fields["env_over"] = env, over
        fields["env_file"] = spec.env_file
    return fields


def _limits(limits: Limits) -> dict[str, Any]:
    """What the keeper enforces; the rest is counted by this server."""
    fields: dict[str, Any] = {}
    values = {name: getattr(limits, name) for name in _ENFORCED_BY_KEEPER}
    asked = {name: value for name, value in values.items() if value is not None}
    if asked:
        fields["limits"] = {**asked, "best_effort": limits.best_effort}
    if limits.open_files is not None:
        fields["rlimits"] = {"nofile": limits.open_files}
    return fields


def _program(spec: AgentSpec, backends: Backends, resume: Resume | None) -> Start:
    if spec.backend is None:
        return Start(spec.command, {}, spec.stdin, None)
    return started_by(spec, backends.find(spec.backend), resume)
