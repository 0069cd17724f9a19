"""The dispatcher, with functions of the test's own behind every method."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
from msgspec import Struct

from descartesd.agents.registry import Registry
from descartesd.errors import DeadlineExceededError, UnauthenticatedError
from descartesd.keys.trust import TrustStore
from descartesd.methods.call import Call
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.idempotency import Answers
from descartesd.methods.policy import Caller, LocalRoles, Policy
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


class Serving(NamedTuple):
    """A dispatcher with its policy, and what it has sent."""

    dispatcher: Dispatcher
    policy: Policy
    sent: list[dict[str, Any]]

    def ask(self, number: int, method: str, params: object = None, **envelope: Any) -> None:
        """Hand it a request."""
        message = {"v": 1, "id": number, "method": method, "params": params or {}, **envelope}
        self.dispatcher.on_request(PEER, msgpack.packb(message))

    def codes(self) -> list[tuple[int, str]]:
        """What each request was answered, in order."""
        return [(each["id"], each.get("error", {}).get("code", "ok")) for each in self.sent]


def serving(
    registry: Registry,
    tmp_path: Path,
    work: Handle,
    scenario: Callable[[Serving], Coroutine[Any, Any, None]],
) -> None:
    """Run a scenario with `work` as every method's function."""
    sent: list[dict[str, Any]] = []

    def send(_peer: Peer, payload: bytes, _is_item: bool = False, /) -> bool:
        sent.append(msgpack.unpackb(payload))
        return True

    async def run() -> None:
        policy = Policy(TrustStore(str(tmp_path), []), LocalRoles({}, {}))
        dispatcher = Dispatcher(
            policy, Answers(registry), request_timeout_s=5.0, max_message_bytes=1000
        )
        dispatcher.register(dict.fromkeys(METHODS, work))
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            dispatcher.start(group, send)
            try:
                await scenario(Serving(dispatcher, policy, sent))
            finally:
                dispatcher.stop()

    asyncio.run(run())


def answers(registry: Registry, tmp_path: Path, method: str, work: Handle) -> list[dict[str, Any]]:
    """What one request of this method is answered, `work` being every method's function."""
    sent: list[dict[str, Any]] = []

    def send(_peer: Peer, payload: bytes, _is_item: bool = False, /) -> bool:
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


async def endless(_call: Call, _params: Any) -> Struct:
    await asyncio.Event().wait()
    return Done()


def test_a_request_of_the_very_turn_of_the_stop_is_answered(
    registry: Registry, tmp_path: Path
) -> None:
    async def scenario(server: Serving) -> None:
        server.ask(1, "agent.wait", {"id": "build"})
        server.dispatcher.stop()
        server.ask(2, "agent.wait", {"id": "build"})
        assert server.codes() == [(1, "unavailable"), (2, "unavailable")]
        await asyncio.sleep(0.01)
        assert len(server.sent) == 2

    serving(registry, tmp_path, endless, scenario)


def test_who_is_let_in_no_longer_waits_no_longer(registry: Registry, tmp_path: Path) -> None:
    async def scenario(server: Serving) -> None:
        server.ask(1, "agent.wait", {"id": "build"})
        await asyncio.sleep(0)
        server.dispatcher.tidy()
        assert server.sent == []

        def identify(user_id: str) -> Caller:
            raise UnauthenticatedError(f"{user_id} has left")

        server.policy.identify = identify  # type: ignore[method-assign]
        server.dispatcher.tidy()
        assert server.codes() == [(1, "unauthenticated")]

    serving(registry, tmp_path, endless, scenario)


def test_while_stopping_a_batch_that_only_looks_is_answered(
    registry: Registry, tmp_path: Path
) -> None:
    async def done(_call: Call, _params: Any) -> Struct:
        return Done()

    async def scenario(server: Serving) -> None:
        server.dispatcher.refuse_changes()
        server.ask(1, "batch.run", {"verb": "stop", "ids": ["build"]})
        server.ask(2, "batch.run", {"verb": "get", "ids": ["build"]})
        server.ask(3, "batch.run", {"verb": "stop", "ids": ["build"], "dry_run": True})
        server.ask(4, "agent.kill", {"id": "build"})
        await server.dispatcher.finish(work_s=1.0, answers_s=1.0)
        assert sorted(server.codes()) == [
            (1, "unavailable"),
            (2, "ok"),
            (3, "ok"),
            (4, "unavailable"),
        ]

    serving(registry, tmp_path, done, scenario)


def test_work_of_a_client_that_has_gone_is_done_before_the_end(
    registry: Registry, tmp_path: Path
) -> None:
    done = []

    async def slow(_call: Call, _params: Any) -> Struct:
        await asyncio.sleep(0.05)
        done.append(True)
        return Done()

    async def scenario(server: Serving) -> None:
        server.ask(1, "agent.signal", PARAMS["agent.signal"], idem="key")
        await asyncio.sleep(0)
        server.dispatcher.on_disconnected(PEER.fd)
        await server.dispatcher.finish(work_s=5.0, answers_s=0.0)
        assert done

    serving(registry, tmp_path, slow, scenario)


def test_a_deadline_that_passed_under_a_key_is_told_the_same_twice(
    registry: Registry, tmp_path: Path
) -> None:
    async def scenario(server: Serving) -> None:
        for number in (1, 2):
            server.ask(number, "agent.signal", PARAMS["agent.signal"], idem="key")
            await server.dispatcher.finish(work_s=1.0, answers_s=1.0)
        first, second = server.sent
        assert first["error"] == second["error"]
        assert not first["error"]["retryable"]

    serving(registry, tmp_path, late, scenario)


def test_open_requests_of_a_connection_are_bounded_by_their_bytes(
    registry: Registry, tmp_path: Path
) -> None:
    async def scenario(server: Serving) -> None:
        for number in range(80):
            server.ask(number, "agent.write", {"id": "build", "data": bytes(60_000)})
        refused = [message["id"] for message in server.sent]
        assert refused == list(range(69, 80))
        assert all(each["error"]["retryable"] for each in server.sent)

    serving(registry, tmp_path, endless, scenario)


def test_every_method_needs_a_function(registry: Registry, tmp_path: Path) -> None:
    policy = Policy(TrustStore(str(tmp_path), []), LocalRoles({}, {}))
    dispatcher = Dispatcher(policy, Answers(registry), request_timeout_s=1, max_message_bytes=1)

    with pytest.raises(ValueError, match=r"agent\.follow"):
        dispatcher.register({"agent.get": lambda _call, _params: Done()})
