"""What hooks are told of the server, of who asks, and of who may come in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from descartesd.wire.agent import NAME_PATTERN
from descartesd.wire.server import RoleName

# Rises in its second part when something is added, in its first when something is taken away.
API_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """The server a plugin is part of; `endpoints` are those it listens on."""

    server_id: str
    version: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks: `uid:N` or `key:SHA256:…`, with a role, and the name of a certificate."""

    id: str
    role: RoleName
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """Who holds a key that no certificate of this server is for: a name, and a role it has.

    Raises ValueError where one of them cannot be.
    """

    name: str
    role: RoleName

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 128 or not self.name.isprintable():
            raise ValueError("name: expected 1 to 128 printable characters")
        if re.fullmatch(NAME_PATTERN, self.role) is None:
            raise ValueError(f"role: '{self.role}' is no name of a role")
