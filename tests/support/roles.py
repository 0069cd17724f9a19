"""A real server with roles of its own, and a client for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from descartesd.client import Client
from tests.support.server import Server

OWN = """
[policy.roles.tenant]
commands = ["**"]
actions = ["get_env"]
[policy.roles.tenant.methods]
"agent.*" = "own"
"batch.*" = "own"
"action.run" = "own"
"event.follow" = "own"
"server.hello" = "any"
"server.health" = "any"
"server.stats" = "any"
"""


@contextmanager
def running_with(policy: str, **settings: object) -> Iterator[Server]:
    """Run a server whose configuration ends with this TOML."""
    with Server({name.replace("__", "."): value for name, value in settings.items()}) as server:
        with server.config.open("a", encoding="utf-8") as config:
            config.write(policy)
        server.start()
        yield server


@contextmanager
def client_of(server: Server, name: str, role: str) -> Iterator[Client]:
    """A client with a new certificate of a role."""
    with server.client(server.issue(name, role)) as client:
        yield client
