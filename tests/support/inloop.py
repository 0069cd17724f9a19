"""An AsyncClient in a loop of its own thread, with the face of the blocking client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from descartesd.client import AsyncClient
from descartesd.keys.profile import Profile

Connect = Callable[..., Any]


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

    @property
    def state(self) -> Any:
        return self.client.state

    @property
    def queued(self) -> int:
        return int(self.client.queued)

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
