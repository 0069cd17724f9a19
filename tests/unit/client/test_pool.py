from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from descartesd.client import AsyncClient, AsyncClientPool, Client, ClientPool
from descartesd.errors import ConflictError, InvalidArgumentError, UnavailableError
from descartesd.keys.profile import ClientSettings, Profile
from descartesd.wire.methods import AGENT_SIGNAL
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer
from tests.support.proxy import Proxy
from tests.support.source import Source
from tests.unit.client.test_channel import echo, signal, unanswered


@pytest.fixture
def pool(server: FakeServer) -> Iterator[ClientPool]:
    server.handlers["agent.signal"] = echo
    with ClientPool(Client(server.profile) for _ in range(3)) as made:
        yield made


def test_calls_one_after_another_need_one_connection(pool: ClientPool, server: FakeServer) -> None:
    assert [pool.agent.signal(id="worker", signal=n).processes for n in range(1, 9)] == list(
        range(1, 9)
    )
    assert len(server.routes) == 1


def test_streams_and_calls_take_the_least_busy_connection(
    pool: ClientPool, server: FakeServer
) -> None:
    Source({"stdout": b"x" * 500, "stderr": b""}, ends=False).serve(server)

    with ExitStack() as opened:
        for number in (1, 2, 3):
            next(opened.enter_context(pool.agent.follow(id="worker")))
            assert len(server.routes) == number
        assert pool.call(AGENT_SIGNAL, signal(7)).processes == 7
        assert pool.pipeline([(AGENT_SIGNAL, signal(8))])[0].processes == 8
    assert len(server.routes) == 3


def test_a_connection_that_is_away_is_left_alone_while_another_is_up(server: FakeServer) -> None:
    server.handlers["agent.signal"] = echo
    server.handlers["agent.wait"] = unanswered

    with (
        Proxy(int(server.endpoint.rpartition(":")[2])) as proxy,
        ClientPool(
            Client(server.keys.profile(endpoint))
            for endpoint in (f"tcp://127.0.0.1:{proxy.port}", server.endpoint)
        ) as pool,
        ThreadPoolExecutor(1) as threads,
    ):
        wait = threads.submit(pool.agent.wait, id="worker")
        eventually(lambda: server.of("agent.wait"))
        proxy.mode = "refuse"
        proxy.cut()

        for number in range(1, 20):
            assert pool.agent.signal(id="worker", signal=number).processes == number
        server.handlers["agent.wait"] = lambda *_: ConflictError("over")
        proxy.mode = "pass"
        with pytest.raises(ConflictError):
            wait.result(timeout=20)


def test_the_asynchronous_pool_does_the_same(server: FakeServer) -> None:
    server.handlers["agent.signal"] = echo
    Source({"stdout": b"x" * 500, "stderr": b""}).serve(server)

    async def work() -> tuple[list[int], int]:
        clients = [AsyncClient(server.profile) for _ in range(2)]
        async with AsyncClientPool(clients) as pool:
            replies = await asyncio.gather(
                *(pool.agent.signal(id="worker", signal=n) for n in range(1, 21))
            )
            size = 0
            async for chunk in pool.agent.follow(id="worker"):
                size += len(chunk.data)
            [last] = await pool.pipeline([(AGENT_SIGNAL, signal(30))])
        return [reply.processes for reply in [*replies, last]], size

    assert asyncio.run(work()) == ([*range(1, 21), 30], 500)
    assert len(server.routes) == 2


def test_a_pool_of_nobody_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="at least one client"):
        ClientPool([])


def test_members_whose_circuit_is_open_come_last(server: FakeServer) -> None:
    server.handlers["agent.signal"] = echo
    settings = ClientSettings(circuit_failures=1, connection_timeout_secs=0.05)
    nowhere = Client(Profile(("ipc:///nowhere/s",), client=settings))
    with ClientPool([nowhere, Client(server.profile)]) as pool:
        with pytest.raises(UnavailableError):
            pool.agent.signal(id="worker", signal=1)
        assert nowhere.state == "circuit_open"

        assert [pool.agent.signal(id="worker", signal=n).processes for n in (2, 3)] == [2, 3]
