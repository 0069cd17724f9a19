"""The dispatcher, with functions of the test's own behind every method."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from msgspec import Struct

from descartesd.agents.registry import Registry
from descartesd.errors import DeadlineExceededError
from descartesd.keys.trust import TrustStore
from descartesd.methods.call import Call
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.idempotency import Answers
from descartesd.methods.policy import LocalRoles, Policy
from descartesd.transport.server import Peer
from descartesd.wire.methods import METHODS
from descartesd.wire.server import Done

PEER = Peer(route=b"route", delimited=False, user_id=f"uid:{os.getuid()}", fd=9)
PARAMS = {
    "agent.pause": {"id": "build"},
    "agent.write": {"id": "build", "data": b"x"},
    "agent.signal": {"id": "build", "signal": "TERM"},
}

Handle = Callable[[Call, Any], Any]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(str(tmp_path / "registry.sqlite"))
    yield made
    made.close()


def answers(registry: Registry, tmp_path: Path, method: str, work: Handle) -> list[dict[str, Any]]:
    """What one request of this method is answered, `work` being every method's function."""
    sent: list[dict[str, Any]] = []

    def send(_peer: Peer, payload: bytes) -> bool:
        sent.append(msgpack.unpackb(payload))
        return True

    async def scenario() -> None:
        policy = Policy(TrustStore(str(tmp_path), []), LocalRoles({}, {}))
        dispatcher = Dispatcher(
            policy, Answers(registry), request_timeout_s=5.0, max_message_bytes=1000
        )
        dispatcher.register(dict.fromkeys(METHODS, work))
        async with asyncio.TaskGroup() as group:
            dispatcher.start(group, send)
            request = {"v": 1, "id": 1, "method": method, "params": PARAMS.get(method, {})}
            dispatcher.on_request(PEER, msgpack.packb(request))
        assert len(sent) == 1

    asyncio.run(scenario())
    return sent


async def late(_call: Call, _params: Any) -> Struct:
    raise DeadlineExceededError("it took too long")


async def broken(_call: Call, _params: Any) -> Struct:
    raise ZeroDivisionError("a secret value")


def swollen(_call: Call, _params: Any) -> dict[str, str]:
    return {"text": "x" * 2000}


@pytest.mark.parametrize(
    ("method", "again"), [("agent.pause", True), ("agent.signal", True), ("agent.write", False)]
)
def test_deadline_that_passed_may_be_tried_again_where_that_is_harmless(
    registry: Registry, tmp_path: Path, method: str, again: bool
) -> None:
    (answer,) = answers(registry, tmp_path, method, late)

    assert answer["error"]["code"] == "deadline_exceeded"
    assert answer["error"]["retryable"] is again


def test_a_bug_is_answered_with_an_incident_and_nothing_of_its_text(
    registry: Registry, tmp_path: Path
) -> None:
    (answer,) = answers(registry, tmp_path, "agent.pause", broken)

    assert answer["error"]["code"] == "internal"
    assert "incident" in answer["error"]["message"]
    assert "secret" not in str(answer)


def test_a_reply_over_the_limit_is_refused_and_names_it(registry: Registry, tmp_path: Path) -> None:
    (answer,) = answers(registry, tmp_path, "server.hello", swollen)

    assert answer["error"]["code"] == "resource_exhausted"
    assert "network.max_message_size (1000)" in answer["error"]["message"]


def test_every_method_needs_a_function(registry: Registry, tmp_path: Path) -> None:
    policy = Policy(TrustStore(str(tmp_path), []), LocalRoles({}, {}))
    dispatcher = Dispatcher(policy, Answers(registry), request_timeout_s=1, max_message_bytes=1)

    with pytest.raises(ValueError, match=r"agent\.follow"):
        dispatcher.register({"agent.get": lambda _call, _params: Done()})
