"""A server to talk to, and both clients behind one blocking face."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from descartesd.client import AsyncClient, Client
from descartesd.keys.profile import Profile
from tests.support.fakeserver import FakeServer


class InLoop:
    """An AsyncClient in a loop of its own, used from ordinary tests."""

    def __init__(self, profile: Profile, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client-loop")
        self._thread.start()
        self.client = self._run(self._make(profile, options))

    async def _make(self, profile: Profile, options: dict[str, Any]) -> AsyncClient:
        return AsyncClient(profile, **options)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    def call(self, *args: Any, **options: Any) -> Any:
        return self._run(self.client.call(*args, **options))

    def pipeline(self, *args: Any, **options: Any) -> Any:
        return self._run(self.client.pipeline(*args, **options))

    def write(self, *args: Any, **options: Any) -> Any:
        return self._run(self.client.write(*args, **options))

    @contextmanager
    def stream(self, *args: Any, **options: Any) -> Iterator[Iterator[Any]]:
        stream = self.client.stream(*args, **options)
        try:
            yield self._items(stream)
        finally:
            self._run(stream.aclose())

    def _items(self, stream: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._run(anext(stream))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        self._run(self.client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


Connect = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def local_server(tmp_path: Any) -> Iterator[FakeServer]:
    with FakeServer(f"ipc://{tmp_path}/control.sock") as running:
        yield running


@pytest.fixture(params=[Client, InLoop], ids=["sync", "async"])
def connect(request: Any) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them."""
    made: list[Any] = []

    def make(profile: Profile, **options: Any) -> Any:
        made.append(request.param(profile, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()
