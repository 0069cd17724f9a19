"""Real coding agents: installed once into the cache, run on request only (make test-agents)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = {
    "claude": "@anthropic-ai/claude-code@2.1.330",
    "codex": "@openai/codex@0.169.0",
    "opencode": "opencode-ai@1.18.33",
    "gemini": "@google/gemini-cli@0.61.0",
}
_CACHE = Path.home() / ".cache" / "descartesd-agents"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_agents: runs real coding agents (make test-agents)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "real_agents" in config.option.markexpr:
        return
    real = [item for item in items if item.get_closest_marker("real_agents")]
    config.hook.pytest_deselected(items=real)
    items[:] = [item for item in items if item not in real]


@pytest.fixture(params=list(PACKAGES))
def program(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The name of a backend, and where its program is."""
    return request.param, installed(request.param)


def installed(name: str) -> Path:
    """Where the program of a backend is; it is installed where that has not been done yet."""
    package = PACKAGES[name]
    path = _CACHE / "node_modules" / ".bin" / name
    if not path.exists():
        if shutil.which("npm") is None:
            pytest.skip("there is no npm")
        _CACHE.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", _CACHE, "--no-audit", "--no-fund", package]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    return path
