from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
)
from descartesd.keys.profile import ClientSettings
from descartesd.transport.calls import not_done, too_late
from descartesd.wire.agent import (
    AgentRef,
    AgentSignal,
    AgentSpawn,
    AgentSpec,
    AgentWrite,
    Signalled,
)
from descartesd.wire.envelope import VERSION, Request, Result
from descartesd.wire.methods import (
    AGENT_CLOSE_STDIN,
    AGENT_GET,
    AGENT_KILL,
    AGENT_SIGNAL,
    AGENT_SPAWN,
    AGENT_WAIT,
    AGENT_WRITE,
    SERVER_HELLO,
)
from descartesd.wire.server import Done, Empty, IdentityInfo, ServerHello, ServerLimits
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer
from tests.support.inloop import Connect


def hello(max_request_bytes: int = 262_111) -> ServerHello:
    return ServerHello(
        server_id="here",
        version="1",
        protocol=1,
        features=[],
        limits=ServerLimits(max_request_bytes=max_request_bytes, max_message_bytes=1 << 20),
        identity=IdentityInfo(id="uid:0", role="admin"),
        time=0.0,
    )


def echo(_: FakeServer, __: bytes, request: Request) -> Signalled:
    """Tells the number of the signal it was asked to send."""
    return Signalled(processes=number_of(request))


def number_of(request: Request) -> int:
    return int(msgspec.msgpack.decode(request.params)["signal"])


def signal(number: int) -> AgentSignal:
    return AgentSignal(id="worker", signal=number)


def unanswered(_: FakeServer, __: bytes, ___: Request) -> None:
    return None


def dies_times(count: int, result: msgspec.Struct) -> Any:
    """A handler that stops and restarts its server the first `count` times."""
    left = [count]

    def handle(server: FakeServer, _: bytes, __: Request) -> msgspec.Struct | None:
        if not left[0]:
            return result
        left[0] -= 1
        server.restart_soon()
        return None

    return handle


def test_a_call_is_answered_with_its_type(connect: Connect, server: FakeServer) -> None:
    server.handlers["server.hello"] = lambda *_: hello()

    assert connect(server.profile).call(SERVER_HELLO, Empty()) == hello()


def test_replies_may_come_out_of_order(connect: Connect, server: FakeServer) -> None:
    held: list[tuple[bytes, Request]] = []

    def hold(here: FakeServer, route: bytes, request: Request) -> None:
        held.append((route, request))
        if len(held) == 8:
            for where, which in reversed(held):
                here.reply(where, which, Signalled(processes=number_of(which)))

    server.handlers["agent.signal"] = hold

    replies = connect(server.profile).pipeline([(AGENT_SIGNAL, signal(n)) for n in range(1, 9)])

    assert [reply.processes for reply in replies] == list(range(1, 9))


def test_what_nobody_waits_for_is_dropped(connect: Connect, server: FakeServer) -> None:
    def noisy(here: FakeServer, route: bytes, request: Request) -> Signalled:
        for junk in (b"", b"\xc1", b"\x93\x01\x02\x03", b"x" * 1000):
            here.send(route, junk)
        here.send(route, Result(v=VERSION, id=987_654, result=Done()))
        here.send(route, Result(v=VERSION, id="theirs", result=Done()))
        return echo(here, route, request)

    server.handlers["agent.signal"] = noisy
    client = connect(server.profile)

    assert client.call(AGENT_SIGNAL, signal(5)).processes == 5
    assert client.call(AGENT_SIGNAL, signal(6)).processes == 6


def test_the_error_of_the_server_is_raised_as_it_was_sent(
    connect: Connect, server: FakeServer
) -> None:
    sent = ConflictError("it sleeps", hint="wake it", details={"state": "paused"})
    server.handlers["agent.kill"] = lambda *_: sent

    with pytest.raises(ConflictError) as caught:
        connect(server.profile).call(AGENT_KILL, AgentRef(id="worker"))

    error = caught.value
    assert (error.message, error.hint, error.details, error.retryable) == (
        "it sleeps",
        "wake it",
        {"state": "paused"},
        False,
    )


def test_after_a_time_out_the_client_is_still_in_step(connect: Connect, server: FakeServer) -> None:
    late: list[tuple[bytes, Request]] = []

    def first_is_late(here: FakeServer, route: bytes, request: Request) -> Signalled | None:
        if not late:
            late.append((route, request))
            return None
        here.reply(*late[0], Signalled(processes=99))
        return echo(here, route, request)

    server.handlers["agent.signal"] = first_is_late
    client = connect(server.profile)

    with pytest.raises(DeadlineExceededError, match=r"no answer to 'agent.signal' within 0.1 s"):
        client.call(AGENT_SIGNAL, signal(1), deadline_s=0.1)

    assert client.call(AGENT_SIGNAL, signal(2)).processes == 2
    assert client.call(AGENT_SIGNAL, signal(3)).processes == 3


@pytest.mark.parametrize(
    ("method", "request_", "retryable"),
    [
        (AGENT_GET, AgentRef(id="worker"), True),
        (AGENT_KILL, AgentRef(id="worker"), True),
        (AGENT_SIGNAL, signal(1), True),
        (AGENT_WRITE, AgentWrite(id="worker", data=b"x"), False),
    ],
    ids=["read", "state", "idem", "never"],
)
def test_a_time_out_is_retryable_where_repeating_does_no_harm(
    connect: Connect, server: FakeServer, method: Any, request_: Any, retryable: bool
) -> None:
    server.handlers[method.name] = unanswered

    with pytest.raises(DeadlineExceededError) as caught:
        connect(server.profile).call(method, request_, deadline_s=0.05)

    assert caught.value.retryable is retryable


def test_the_deadline_the_server_speaks_of_is_told_as_it_was_given(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.wait"] = lambda *_: not_done(AGENT_WAIT, 1.9873)
    server.handlers["agent.kill"] = lambda *_: DeadlineExceededError("the keeper took too long")
    client = connect(server.profile)

    with pytest.raises(DeadlineExceededError) as caught:
        client.call(AGENT_WAIT, AgentRef(id="worker"), deadline_s=2)
    with pytest.raises(DeadlineExceededError, match="the keeper took too long"):
        client.call(AGENT_KILL, AgentRef(id="worker"), deadline_s=2)

    assert caught.value.message == "no answer to 'agent.wait' within 2 s"
    assert caught.value.hint == "a longer time is given with --timeout or deadline_s"
    assert caught.value.details is None


@pytest.mark.parametrize(
    ("method", "may_happen", "advice"),
    [
        (AGENT_WAIT, False, "a longer time"),
        (AGENT_KILL, True, "asking again does no harm"),
        (AGENT_SIGNAL, True, "the same idempotency key"),
        (AGENT_WRITE, True, "look at the state before asking again"),
    ],
    ids=["read", "state", "idem", "never"],
)
def test_what_to_do_after_a_time_out_is_told_by_the_kind_of_method(
    method: Any, may_happen: bool, advice: str
) -> None:
    for error in (not_done(method, 2.0), not_done(method, None), too_late(method, 2.0)):
        assert advice in str(error.hint)
        assert ("may still happen" in str(error.hint)) is may_happen


def test_the_deadline_travels_and_infinity_means_none(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.close_stdin"] = lambda *_: Done()
    client = connect(server.profile, timeout_s=20)

    for given in (None, 7.0, float("inf")):
        client.call(AGENT_CLOSE_STDIN, AgentRef(id="worker"), deadline_s=given)

    sent = [request.deadline_s for request in server.of("agent.close_stdin")]
    assert 19 < sent[0] <= 20
    assert 6 < sent[1] <= 7
    assert sent[2] is msgspec.UNSET


@pytest.mark.parametrize(
    ("method", "request_", "result"),
    [
        (SERVER_HELLO, Empty(), hello()),
        (AGENT_CLOSE_STDIN, AgentRef(id="worker"), Done()),
        (AGENT_SIGNAL, signal(2), Signalled(processes=1)),
    ],
    ids=["read", "state", "idem"],
)
def test_what_may_be_repeated_is_sent_again_after_a_restart(
    connect: Connect, server: FakeServer, method: Any, request_: Any, result: Any
) -> None:
    server.handlers[method.name] = dies_times(2, result)

    assert connect(server.profile).call(method, request_) == result

    sent = server.of(method.name)
    assert len(sent) == 3
    assert len({request.id for request in sent}) == 1
    assert len({request.idem for request in sent}) == 1


def test_the_third_lost_connection_ends_a_request(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.get"] = dies_times(9, Done())

    with pytest.raises(UnavailableError, match=r"lost 3 times while 'agent.get' was under way"):
        connect(server.profile).call(AGENT_GET, AgentRef(id="worker"))

    assert len(server.of("agent.get")) == 3


def test_a_wait_outlives_any_number_of_restarts(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.wait"] = dies_times(4, ConflictError("over"))

    with pytest.raises(ConflictError):
        connect(server.profile, timeout_s=0.5).call(AGENT_WAIT, AgentRef(id="worker"))

    assert len(server.of("agent.wait")) == 5


def test_what_must_not_be_repeated_fails_with_the_connection(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.write"] = dies_times(1, Done())

    with pytest.raises(UnavailableError, match="may or may not have happened") as caught:
        connect(server.profile).call(AGENT_WRITE, AgentWrite(id="worker", data=b"x"))

    assert not caught.value.retryable
    assert len(server.of("agent.write")) == 1


def test_every_request_of_an_idem_method_carries_a_key(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.signal"] = echo
    client = connect(server.profile)

    client.call(AGENT_SIGNAL, signal(1))
    client.call(AGENT_SIGNAL, signal(1))
    client.call(AGENT_SIGNAL, signal(1), idem="mine")

    keys = [request.idem for request in server.of("agent.signal")]
    assert keys[2] == "mine"
    assert len(set(keys)) == 3
    assert all(len(key) == 32 for key in keys[:2])


def test_a_time_out_tells_the_key_under_which_the_outcome_can_be_asked_for(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.signal"] = unanswered
    client = connect(server.profile)

    with pytest.raises(DeadlineExceededError) as caught:
        client.call(AGENT_SIGNAL, signal(1), deadline_s=0.05)
    key = caught.value.details["idem"]
    server.handlers["agent.signal"] = echo
    assert client.call(AGENT_SIGNAL, signal(1), idem=key).processes == 1

    assert [request.idem for request in server.of("agent.signal")] == [key, key]
    assert f"--idem {key}" in str(caught.value.hint)


def test_the_deadline_of_the_server_tells_the_key_too_and_its_refusals_do_not(
    connect: Connect, server: FakeServer
) -> None:
    client = connect(server.profile)

    server.handlers["agent.signal"] = lambda *_: DeadlineExceededError("too late")
    with pytest.raises(DeadlineExceededError, match="too late") as late:
        client.call(AGENT_SIGNAL, signal(1), idem="mine")
    server.handlers["agent.signal"] = lambda *_: UnavailableError("stopping", hint="come back")
    with pytest.raises(UnavailableError) as refused:
        client.call(AGENT_SIGNAL, signal(1), idem="mine")

    assert late.value.details == {"idem": "mine"}
    assert (refused.value.hint, refused.value.details) == ("come back", None)


def test_a_request_cut_off_too_often_tells_its_key(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.signal"] = dies_times(9, Done())

    with pytest.raises(UnavailableError, match="lost 3 times") as caught:
        connect(server.profile).call(AGENT_SIGNAL, signal(1))

    assert caught.value.details == {"idem": server.of("agent.signal")[0].idem}


def test_a_request_too_large_is_refused_before_it_is_sent(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["server.hello"] = lambda *_: hello(max_request_bytes=5000)
    client = connect(server.profile)
    spec = AgentSpec(command=["echo", "x" * 10_000])
    large = AgentSpawn(spec=AgentSpec(command=["echo", "x" * 100_000, "x" * 100_000, "x" * 99_999]))

    with pytest.raises(InvalidArgumentError, match="max_request_bytes of the server is 262111"):
        client.call(AGENT_SPAWN, large)
    client.call(SERVER_HELLO, Empty())
    with pytest.raises(InvalidArgumentError, match="is 5000") as caught:
        client.call(AGENT_SPAWN, AgentSpawn(spec=spec))

    assert "task_via" in str(caught.value.hint)
    assert server.of("agent.spawn") == []


def test_a_request_of_exactly_the_limit_passes(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.write"] = lambda *_: ConflictError("it came")
    client = connect(server.profile)

    def write(size: int) -> None:
        client.call(AGENT_WRITE, AgentWrite(id="worker", data=bytes(size)), deadline_s=9.0)

    with pytest.raises(InvalidArgumentError) as caught:
        write(262_111)
    overhead = int(str(caught.value).split()[4]) - 262_111
    with pytest.raises(ConflictError):
        write(262_111 - overhead)


def test_a_pipeline_keeps_the_order_and_tells_errors_in_their_place(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.signal"] = lambda here, route, request: (
        ConflictError("seven") if number_of(request) % 7 == 0 else echo(here, route, request)
    )
    numbers = [1 + n % 60 for n in range(2000)]

    replies = connect(server.profile).pipeline([(AGENT_SIGNAL, signal(n)) for n in numbers])

    assert [
        n % 7 == 0 if isinstance(reply, ConflictError) else reply.processes == n
        for n, reply in zip(numbers, replies, strict=True)
    ] == [True] * 2000


def test_threads_share_a_client_and_each_gets_its_own_answers(server: FakeServer) -> None:
    server.handlers["agent.signal"] = echo

    with Client(server.profile) as client, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> bool:
            return all(
                client.call(AGENT_SIGNAL, signal(number)).processes == number for _ in range(100)
            )

        assert list(pool.map(work, range(1, 9))) == [True] * 8
    assert len(server.routes) == 1


def test_a_thread_that_waits_long_does_not_hold_up_the_others(server: FakeServer) -> None:
    server.handlers["agent.signal"] = echo
    server.handlers["agent.wait"] = unanswered

    with Client(server.profile) as client, ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(client.agent.wait, id="worker") for _ in range(2)]
        eventually(lambda: len(server.of("agent.wait")) == 2)

        assert client.agent.signal(id="worker", signal=4).processes == 4
        with pytest.raises(DeadlineExceededError):
            client.agent.wait(id="worker", deadline_s=0.05)

        client.close()
        for wait in waits:
            with pytest.raises(UnavailableError, match="the client was closed"):
                wait.result(timeout=5)


def test_a_closed_client_refuses_further_calls(connect: Connect, server: FakeServer) -> None:
    client = connect(server.profile)
    client.close() if isinstance(client, Client) else client._run(client.client.aclose())

    with pytest.raises(UnavailableError, match="the client is closed"):
        client.call(SERVER_HELLO, Empty())


def test_without_auto_reconnect_a_lost_connection_ends_everything(
    connect: Connect, server: FakeServer
) -> None:
    server.handlers["agent.get"] = dies_times(1, Done())
    server.handlers["server.hello"] = lambda *_: hello()
    profile = server.keys.profile(server.endpoint, client=ClientSettings(auto_reconnect=False))
    client = connect(profile)

    with pytest.raises(UnavailableError, match=r"the connection to .* was lost"):
        client.call(AGENT_GET, AgentRef(id="worker"))

    assert client.call(SERVER_HELLO, Empty()) == hello()


def test_the_number_of_reconnections_can_be_bounded(connect: Connect, server: FakeServer) -> None:
    server.handlers["agent.wait"] = unanswered
    settings = ClientSettings(max_reconnect_attempts=2, reconnect_delay_secs=0.01)
    client = connect(server.keys.profile(server.endpoint, client=settings))
    threading.Thread(
        target=lambda: eventually(lambda: server.of("agent.wait")) and server.stop()
    ).start()

    began = time.monotonic()
    with pytest.raises(UnavailableError, match="nobody answers"):
        client.call(AGENT_WAIT, AgentRef(id="worker"))

    assert time.monotonic() - began < 2


def test_an_idle_client_finds_a_restarted_server(connect: Connect, server: FakeServer) -> None:
    server.handlers["server.hello"] = lambda *_: hello()
    client = connect(server.profile)
    client.call(SERVER_HELLO, Empty())

    server.restart()

    assert client.call(SERVER_HELLO, Empty()) == hello()
    assert server.connects["200"] == 2
