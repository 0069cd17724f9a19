"""Home directories in which real coding agents speak to a model on loopback, and to nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def claude(home: Path, api: str) -> dict[str, Any]:
    """What a spec needs for claude."""
    return {
        "model": "claude-sonnet-4-5",
        "tools": "Bash",
        "env": {
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": api,
            "ANTHROPIC_API_KEY": "sk-ant-fake",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        },
    }


def codex(home: Path, api: str) -> dict[str, Any]:
    """What a spec needs for codex."""
    (home / "config.toml").write_text(
        f"""
model = "fake"
model_provider = "fake"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.fake]
name = "fake"
base_url = "{api}/v1"
env_key = "FAKE_KEY"
wire_api = "responses"
"""
    )
    env = {"HOME": str(home), "CODEX_HOME": str(home), "FAKE_KEY": "fake"}
    return {"env": env, "extra_args": ["-c", 'sandbox_mode="danger-full-access"']}


def opencode(home: Path, api: str) -> dict[str, Any]:
    """What a spec needs for opencode."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "fake",
        "options": {"baseURL": f"{api}/v1", "apiKey": "fake"},
        "models": {"fake": {"name": "fake"}},
    }
    config = home / "opencode.json"
    config.write_text(
        json.dumps({"provider": {"fake": provider}, "autoupdate": False, "share": "disabled"})
    )
    return {
        "model": "fake/fake",
        "env": {"HOME": str(home), "OPENCODE_CONFIG": str(config)},
    }


def gemini(home: Path, api: str) -> dict[str, Any]:
    """What a spec needs for gemini."""
    (home / ".gemini").mkdir()
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "general": {"enableAutoUpdate": False},
    }
    (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
    return {
        "model": "gemini-2.5-flash",
        "env": {"HOME": str(home), "GEMINI_API_KEY": "fake", "GOOGLE_GEMINI_BASE_URL": api},
        "extra_args": ["--allowed-tools=run_shell_command"],
    }


HOMES = {"claude": claude, "codex": codex, "opencode": opencode, "gemini": gemini}
