"""Checks a spec beyond its types, and composes what the keeper needs to start it."""

from __future__ import annotations

import os
import pwd
import signal as signals
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec, Signal

_SIGNALS = {member.name.removeprefix("SIG"): int(member) for member in signals.Signals}
_RESERVED_ENV = ("DESCARTES_AGENT_ID", "DESCARTES_AGENT_NAME")
# execve(2): argv and environment together; the kernel's own bound is a quarter of the stack.
_ARGUMENTS_MAX = 2 * 1024 * 1024


def own_account() -> pwd.struct_passwd:
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        # A container may run under a uid nobody has told it of.
        return pwd.struct_passwd((str(uid), "x", uid, os.getgid(), "", "/", "/bin/sh"))


@dataclass(frozen=True)
class RunnerDefaults:
    """What the configuration says of every agent."""

    working_dir: str | None
    path: tuple[str, ...]
    output_bytes: int
    account: pwd.struct_passwd = field(default_factory=own_account)

    @cached_property
    def environment(self) -> dict[str, str]:
        """What every agent finds in its environment unless its own says otherwise."""
        home = self.account.pw_dir
        path = [os.path.join(home, p[2:]) if p.startswith("~/") else p for p in self.path]
        return {
            "HOME": home,
            "USER": self.account.pw_name,
            "LOGNAME": self.account.pw_name,
            "SHELL": self.account.pw_shell or "/bin/sh",
            "LANG": "C.UTF-8",
            "PATH": ":".join(path),
        }


def check(spec: AgentSpec) -> None:
    """Refuse what no type can tell; raises InvalidArgumentError naming the field."""
    if not spec.command[0]:
        raise InvalidArgumentError("spec.command[0]: the program's name is empty")
    for number, argument in enumerate(spec.command):
        _refuse_nul(f"spec.command[{number}]", argument)
    for name, value in spec.env.items():
        _refuse_nul(f"spec.env.{name}", value)
        if name in _RESERVED_ENV:
            raise InvalidArgumentError(f"spec.env.{name}: this name is set by the server")
    size = sum(map(len, spec.command)) + sum(map(len, spec.env.values()))
    if size > _ARGUMENTS_MAX:
        raise InvalidArgumentError(
            f"spec: command and env have {size} characters, more than {_ARGUMENTS_MAX}"
        )
    if spec.cwd is not None:
        _refuse_nul("spec.cwd", spec.cwd)
        if not spec.cwd.startswith("/"):
            raise InvalidArgumentError(f"spec.cwd: '{spec.cwd}' is not an absolute path")
    signal_number(spec.stop.signal, "spec.stop.signal")


def _refuse_nul(field: str, text: str) -> None:
    if "\0" in text:
        raise InvalidArgumentError(f"{field}: a NUL character cannot be passed to a program")


def signal_number(signal: Signal, field: str = "signal") -> int:
    """Turn `TERM`, `SIGTERM`, `15` or 15 into a number; raises InvalidArgumentError."""
    if isinstance(signal, int):
        return signal
    if signal.isdigit() and 1 <= int(signal) <= 64:
        return int(signal)
    number = _SIGNALS.get(signal.upper().removeprefix("SIG"))
    if number is None:
        raise InvalidArgumentError(
            f"{field}: '{signal}' is no signal", hint="see the names with: kill -l"
        )
    return number


def launch_fields(
    spec: AgentSpec, agent_id: str, name: str, defaults: RunnerDefaults
) -> dict[str, Any]:
    """Compose the keeper's spawn fields: complete environment, search path, limits."""
    env = {
        **defaults.environment,
        **spec.env,
        "DESCARTES_AGENT_ID": agent_id,
        "DESCARTES_AGENT_NAME": name,
    }
    fields: dict[str, Any] = {
        "agent_id": agent_id,
        "name": name,
        "argv": spec.command,
        "cwd": spec.cwd or defaults.working_dir or defaults.account.pw_dir,
        "env": env,
        "path": env["PATH"].split(":"),
        "stdin": spec.stdin,
        "output_bytes": spec.limits.output_bytes or defaults.output_bytes,
        "stop": {"signal": signal_number(spec.stop.signal), "grace_s": spec.stop.grace_s},
    }
    if spec.limits.open_files is not None:
        fields["rlimits"] = {"nofile": spec.limits.open_files}
    return fields
