"""A server to talk to, and clients of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.keys.profile import Profile
from tests.support.fakeserver import FakeServer
from tests.support.inloop import Connect, InLoop


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
