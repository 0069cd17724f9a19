"""Fixtures every test may use; and the suite's promise to leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from tests.support.eventually import eventually
from tests.support.server import Server


def _ours() -> set[int]:
    """Processes of the project that run now."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or ())
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if "descartesd.keeper" in words or "bin/descartesd" in words:
            found.add(process.pid)
    return found


def _directories() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith(("dsc-", "descartes-"))}


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    session.config.stash[_BEFORE] = (_ours(), _directories())


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    processes, directories = session.config.stash[_BEFORE]
    eventually(lambda: not (_ours() - processes), timeout=5)
    left = _directories() - directories
    if left:
        raise AssertionError(f"the suite left {sorted(left)} in /tmp")


_BEFORE: pytest.StashKey[tuple[set[int], set[str]]] = pytest.StashKey()


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
