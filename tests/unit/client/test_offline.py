from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from descartesd.errors import ConflictError, ResourceExhaustedError, UnavailableError
from descartesd.keys.profile import ClientSettings, Profile
from descartesd.wire.agent import AgentRef
from descartesd.wire.methods import AGENT_GET, AGENT_SIGNAL, AGENT_WAIT
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer, ServerKeys
from tests.support.inloop import Connect
from tests.support.proxy import Proxy
from tests.support.server import free_port
from tests.unit.client.test_channel import echo, number_of, signal, unanswered


def profile_of(server: FakeServer, **settings: Any) -> Profile:
    return server.keys.profile(
        server.endpoint, client=ClientSettings(reconnect_delay_secs=0.02, **settings)
    )


@pytest.fixture
def later() -> Any:
    """A server that is not started yet."""
    server = FakeServer(f"tcp://127.0.0.1:{free_port()}")
    server.handlers["agent.signal"] = echo
    yield server
    server.stop()


def signals(count: int) -> list[Any]:
    return [(AGENT_SIGNAL, signal(n)) for n in range(1, count + 1)]


def test_what_waits_for_the_connection_is_sent_in_its_order(
    connect: Connect, later: FakeServer
) -> None:
    client = connect(profile_of(later, offline_queue_expiry_secs=20.0))

    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(client.pipeline, signals(50))
        eventually(lambda: client.queued == 50)
        assert client.state == "connecting"
        later.start()
        assert [reply.processes for reply in replies.result(timeout=10)] == list(range(1, 51))

    assert [number_of(request) for request in later.seen] == list(range(1, 51))
    assert (client.queued, client.state) == (0, "up")


def test_one_request_too_many_is_refused_at_once_naming_the_limit(
    connect: Connect, later: FakeServer
) -> None:
    client = connect(profile_of(later, offline_queue_size=3), connect_timeout_s=0.3)

    replies = client.pipeline(signals(5))

    assert [type(reply) for reply in replies] == [UnavailableError] * 3 + [
        ResourceExhaustedError
    ] * 2
    assert "offline_queue_size is 3" in replies[3].message
    assert replies[3].retryable


def test_what_was_given_up_makes_room_again_and_was_never_sent(
    connect: Connect, later: FakeServer
) -> None:
    client = connect(
        profile_of(later, offline_queue_size=3, circuit_failures=0), connect_timeout_s=0.1
    )

    for _ in range(3):
        errors = client.pipeline(signals(3))
        assert ["; 'agent.signal' was not sent" in error.message for error in errors] == [True] * 3
        assert [error.details for error in errors] == [{"sent": False}] * 3
    later.start()

    assert client.call(AGENT_SIGNAL, signal(9)).processes == 9
    assert [number_of(request) for request in later.seen] == [9]


def test_the_queue_can_be_unbounded(connect: Connect, later: FakeServer) -> None:
    client = connect(profile_of(later, offline_queue_size=0), connect_timeout_s=0.1)

    assert {type(reply) for reply in client.pipeline(signals(60))} == {UnavailableError}


def test_the_bound_is_for_requests_without_a_connection_only(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.signal"] = echo
    client = connect(profile_of(server, offline_queue_size=1))
    client.call(AGENT_SIGNAL, signal(1))

    replies = client.pipeline([(AGENT_SIGNAL, signal(1))] * 3000)

    assert {reply.processes for reply in replies} == {1}


def failure_of(client: Any) -> tuple[UnavailableError, float]:
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        client.call(AGENT_SIGNAL, signal(1))
    return caught.value, time.monotonic() - began


def test_requests_fail_at_once_after_many_found_nobody_and_a_later_one_tries(
    connect: Connect, later: FakeServer
) -> None:
    client = connect(
        profile_of(later, circuit_failures=2, circuit_reset_secs=0.4), connect_timeout_s=0.1
    )

    slow = [failure_of(client)[1] for _ in range(2)]
    assert client.state == "circuit_open"
    error, seconds = failure_of(client)
    later.start()
    eventually(lambda: client.state == "idle")

    assert client.call(AGENT_SIGNAL, signal(5)).processes == 5
    assert "2 times in a row" in error.message
    assert seconds < 0.05 < min(slow)
    assert client.state == "up"


def test_errors_a_server_answers_never_open_the_circuit(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.signal"] = lambda *_: UnavailableError("the keeper is away")
    client = connect(profile_of(server, circuit_failures=1))

    for _ in range(5):
        assert failure_of(client)[0].message == "the keeper is away"


def test_who_waits_for_the_server_waits_each_time(connect: Connect, later: FakeServer) -> None:
    client = connect(
        profile_of(later, circuit_failures=1), connect_timeout_s=0.01, wait_for_server_s=0.1
    )

    assert min(failure_of(client)[1] for _ in range(4)) >= 0.1


def test_a_caller_is_told_when_the_connection_is_lost_and_there_again(
    connect: Connect, server: FakeServer
) -> None:
    told: list[tuple[str, str]] = []
    server.handlers["agent.wait"] = unanswered
    client = connect(server.profile, on_connection=lambda news, where: told.append((news, where)))

    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(client.call, AGENT_WAIT, AgentRef(id="worker"))
        eventually(lambda: len(server.of("agent.wait")) == 1)
        server.handlers["agent.wait"] = lambda *_: ConflictError("over")
        server.restart()
        with pytest.raises(ConflictError):
            wait.result(timeout=10)

    assert told == [("up", server.endpoint), ("lost", server.endpoint), ("up", server.endpoint)]


def test_a_silent_server_is_found_out_by_heartbeats_and_asked_again(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.get"] = lambda *_: ConflictError("here")
    told: list[float] = []
    with Proxy(int(server.endpoint.rpartition(":")[2])) as proxy:
        settings = ClientSettings(heartbeat_interval_secs=0.1, reconnect_delay_secs=0.02)
        profile = server.keys.profile(f"tcp://127.0.0.1:{proxy.port}", client=settings)
        client = connect(
            profile,
            connect_timeout_s=0.2,
            on_connection=lambda *_: told.append(time.monotonic()),
        )
        with pytest.raises(ConflictError):
            client.call(AGENT_GET, AgentRef(id="worker"))
        proxy.mode = "half-open"
        began = time.monotonic()
        back = threading.Timer(0.5, lambda: setattr(proxy, "mode", "pass"))
        back.start()

        with pytest.raises(ConflictError):
            client.call(AGENT_GET, AgentRef(id="worker"))
        back.join()

    assert told[1] - began < 0.6


def test_without_heartbeats_silence_is_no_sign(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.get"] = lambda *_: ConflictError("here")
    told: list[str] = []
    with Proxy(int(server.endpoint.rpartition(":")[2])) as proxy:
        settings = ClientSettings(enable_heartbeat=False, heartbeat_interval_secs=0.05)
        profile = server.keys.profile(f"tcp://127.0.0.1:{proxy.port}", client=settings)
        client = connect(profile, on_connection=lambda news, _: told.append(news))
        with pytest.raises(ConflictError):
            client.call(AGENT_GET, AgentRef(id="worker"))
        proxy.mode = "stall"
        back = threading.Timer(0.5, lambda: setattr(proxy, "mode", "pass"))
        back.start()

        with pytest.raises(ConflictError):
            client.call(AGENT_GET, AgentRef(id="worker"))
        back.join()
        assert told == ["up"]


def test_a_key_of_a_stranger_does_not_count_against_the_server(connect: Connect) -> None:
    with FakeServer(zap_status=b"400") as server:
        client = connect(profile_of(server, circuit_failures=1))
        for _ in range(3):
            [error] = client.pipeline(signals(1))
            assert error.code == "unauthenticated"


def test_keys_of_another_server_keep_their_own_message(connect: Connect) -> None:
    with FakeServer() as server:
        other = ServerKeys()
        other.client_public, other.client_secret = (
            server.keys.client_public,
            server.keys.client_secret,
        )
        [error] = connect(other.profile(server.endpoint)).pipeline(signals(1))

    assert "wrong server key" in error.message
    assert "not sent" not in error.message
