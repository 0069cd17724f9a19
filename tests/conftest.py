"""Fixtures every test may use; and the suite's promise to leave nothing behind."""

from __future__ import annotations

import contextlib
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


_LEFT = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        # Other workers' servers still run: the controller looks when all have ended.
        return
    with contextlib.suppress(AssertionError):
        eventually(lambda: not _processes(), timeout=5)
    left = [*_processes(), *(name for name in os.listdir("/tmp") if name.startswith(PREFIX))]
    if left:
        # Raised here it would hide which tests have failed, of which this may come.
        session.config.stash[_LEFT] = f"the suite left {left}"
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left = terminalreporter.config.stash.get(_LEFT, None)
    if left is not None:
        terminalreporter.section("left behind", red=True)
        terminalreporter.line(left)


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
