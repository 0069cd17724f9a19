"""A custom action, and what it is given when it is run."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from descartesd.wire.agent import NAME_PATTERN, AgentInfo
from descartesd.wire.methods import ROLES
from descartesd.wire.server import Empty, Role, RoleName


class Progress(Protocol):
    """Takes what an action tells of how far it is."""

    def __call__(self, done: float, total: float | None = None, text: str = "", /) -> None:
        """Tell it; returns at once, and only the last one counts where many are told."""


def nobody_watches(_done: float, _total: float | None = None, _text: str = "", /) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionContext:
    """Who runs an action, with which role, and on which agent as it was then.

    `progress(done, total, text)` tells whoever watches how far it is, from any thread; without a
    `total` nobody knows how much there is. `cancelled` is set when nobody waits any more: an
    action that runs in a thread looks at it and ends; one that is a coroutine is cancelled.
    """

    caller: str
    role: RoleName
    agent: AgentInfo | None
    log: logging.Logger
    progress: Progress = nobody_watches
    cancelled: threading.Event = field(default_factory=threading.Event)


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
