"""Fixtures every test may use; and the suite's promise to leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from tests.support.eventually import eventually
from tests.support.server import PREFIX, Server


def _processes() -> list[str]:
    """Command lines of processes of this run that still run."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or ())
        if f"/{PREFIX}" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(words)
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        # Other workers' servers still run: the controller looks when all have ended.
        return
    try:
        eventually(lambda: not _processes(), timeout=5)
    except AssertionError as exc:
        raise AssertionError(f"the suite left processes: {_processes()}") from exc
    left = [name for name in os.listdir("/tmp") if name.startswith(PREFIX)]
    assert not left, f"the suite left {left} in /tmp"


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server of the test's own."""
    with Server() as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    """A running server for the tests of one module that leave it as they found it."""
    with Server({"server.max_agents": 2000}) as made:
        made.start()
        yield made
