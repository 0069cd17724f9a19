"""The fixtures of the suite, for the tests of the plugins."""

from tests.conftest import pytest_sessionfinish, server, shared_server

__all__ = ["pytest_sessionfinish", "server", "shared_server"]
