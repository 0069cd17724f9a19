"""A real server with roles of its own, and a client for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

# What a method needs beside its agent, by the name of the parameter.
PARAMS: dict[str, dict[str, Any]] = {
    "agent.signal": {"signal": "CONT"},
    "agent.write": {"data": b""},
    "agent.say": {"text": "x"},
    "agent.answer": {"decision": "allow"},
    "agent.output": {"stream": "stdout"},
    "agent.resize": {"rows": 24, "cols": 80},
}
# Allowed, they would wait for an agent's end, or bring it about.
ON_ENDED = ("agent.wait", "agent.stop", "agent.kill", "agent.follow", "agent.attach")
DENIED = ("permission_denied", "not_found")


def params_on(method: str, agent: str) -> dict[str, Any]:
    """Valid parameters about an agent; a method nobody has thought of here has none that fit."""
    if method == "batch.run":
        return {"verb": "get", "ids": [agent]}
    if method in ("action.run", "action.follow"):
        return {"name": "get_env", "agent": agent}
    return {"id": agent, **PARAMS.get(method, {})}


def refusal_of(answer: dict[str, Any]) -> str | None:
    """The code it was refused with as one who may not, None where it was let through."""
    error = answer.get("error")
    if error is None:
        for item in (answer.get("result") or {}).get("results", ()):
            error = error or item.get("error")
    code = None if error is None else error["code"]
    return code if code in DENIED else None


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
