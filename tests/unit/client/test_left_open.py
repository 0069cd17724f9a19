"""Clients nobody closes, and clients taken into another process."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from descartesd.client import AsyncClient, Client
from descartesd.errors import NotFoundError
from descartesd.wire.methods import AGENT_FOLLOW, SERVER_METHODS
from descartesd.wire.server import Empty
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer
from tests.support.source import Source
from tests.unit.client.test_connector import NOTHING, answers
from tests.unit.client.test_inbound import ERR, FOLLOW, OUT, collected

FORKED = """
import asyncio, os, sys, time
from descartesd.client import AsyncClient, Client
from descartesd.errors import UnavailableError
from descartesd.keys.profile import Profile

def refused(use):
    try:
        use()
    except UnavailableError as error:
        print(error.message, "/", error.hint, "/", error.retryable, flush=True)

def child(*uses):
    if os.fork() == 0:
        began = time.monotonic()
        for use in uses:
            refused(use)
        print("at once" if time.monotonic() - began < 1 else "late", flush=True)
        os._exit(0)
    os.wait()

profile = Profile((sys.argv[1],))
print(os.getpid(), flush=True)
with Client(profile) as client:
    client.server.methods()
    with client.event.follow(since=0) as events:
        child(
            client.server.methods,
            lambda: next(events),
            lambda: client.state,
            lambda: (events.close(), client.close()),
            client.server.methods,
        )
    print(client.server.methods().methods, client.state, flush=True)

async def main():
    async with AsyncClient(profile) as client:
        await client.server.methods()
        return client

async def of_parent(client):
    await client.server.methods()

async def close(client):
    await client.aclose()

loop = asyncio.new_event_loop()
client = AsyncClient(profile)
loop.run_until_complete(client.server.methods())
child(
    lambda: asyncio.run(of_parent(client)),
    lambda: asyncio.run(close(client)),
    lambda: asyncio.run(of_parent(client)),
)
print(loop.run_until_complete(client.server.methods()).methods, client.state, flush=True)
loop.run_until_complete(client.aclose())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def warns_and_closes(endpoint: str, let_go: Callable[[], object]) -> None:
    """What `let_go` lets go of is told about as unclosed, and closed."""

    def and_collect() -> None:
        let_go()
        gc.collect()

    gc.collect()
    before = descriptors()
    with pytest.warns(ResourceWarning) as warned:
        and_collect()
    assert {str(each.message) for each in warned} == {f"unclosed client of '{endpoint}'"}
    eventually(lambda: descriptors() <= before)


def test_a_client_let_go_of_is_closed(local_server: FakeServer) -> None:
    local_server.handlers["server.methods"] = answers

    def let_go() -> None:
        for _ in range(20):
            assert Client(local_server.profile).call(SERVER_METHODS, Empty()) == NOTHING

    warns_and_closes(local_server.endpoint, let_go)


def test_a_client_never_used_is_closed_as_well(local_server: FakeServer) -> None:
    warns_and_closes(local_server.endpoint, lambda: Client(local_server.profile))


def test_an_asyncio_client_let_go_of_is_closed_with_its_loop(local_server: FakeServer) -> None:
    local_server.handlers["server.methods"] = answers

    def let_go() -> None:
        for _ in range(20):
            client = AsyncClient(local_server.profile)
            assert asyncio.run(client.call(SERVER_METHODS, Empty())) == NOTHING

    warns_and_closes(local_server.endpoint, let_go)


def test_an_asyncio_client_let_go_of_is_closed_while_its_loop_runs_on(
    local_server: FakeServer,
) -> None:
    local_server.handlers["server.methods"] = answers

    async def main() -> None:
        before = descriptors()
        for _ in range(5):
            await AsyncClient(local_server.profile).call(SERVER_METHODS, Empty())
        gc.collect()
        await asyncio.to_thread(eventually, lambda: descriptors() <= before)

    warns_and_closes(local_server.endpoint, lambda: asyncio.run(main()))


def test_a_stream_keeps_the_connection_of_a_client_let_go_of(local_server: FakeServer) -> None:
    Source({"stdout": OUT, "stderr": ERR}).serve(local_server)

    def let_go() -> None:
        stream = Client(local_server.profile).stream(AGENT_FOLLOW, FOLLOW)
        gc.collect()
        assert collected(stream) == {"stdout": OUT, "stderr": ERR}

    warns_and_closes(local_server.endpoint, let_go)


def test_a_closed_client_leaves_nothing_to_warn_of(local_server: FakeServer) -> None:
    local_server.handlers["server.methods"] = answers
    before = descriptors()

    with Client(local_server.profile) as client:
        client.call(SERVER_METHODS, Empty())
    del client
    gc.collect()

    eventually(lambda: descriptors() <= before)


def test_a_client_that_does_not_come_about_is_not_called_unclosed() -> None:
    with pytest.raises(NotFoundError):
        AsyncClient("/nowhere/profile.toml")
    gc.collect()


def test_a_client_used_after_a_fork_fails_at_once_and_the_parent_goes_on(
    local_server: FakeServer,
) -> None:
    local_server.handlers["server.methods"] = answers
    local_server.handlers["event.follow"] = lambda *_: None

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKED, local_server.endpoint],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    pid, *said = done.stdout.splitlines()
    refusal = (
        f"this client was made in another process (pid {pid}) / make one after the fork / False"
    )
    assert said == [
        *[refusal] * 4, "at once", "[] up",
        *[refusal] * 2, "at once", "[] up",
    ]  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
