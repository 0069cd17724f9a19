"""A custom action, and what it is given when it is run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from descartesd.wire.agent import NAME_PATTERN, AgentInfo
from descartesd.wire.methods import ROLES
from descartesd.wire.server import Empty, Role, RoleName


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
