"""Real repositories for the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_ENVIRON = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(directory: Path, *words: str) -> str:
    """Run git as a person would."""
    done = subprocess.run(
        ["git", "-C", directory, *words], capture_output=True, text=True, env=_ENVIRON, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(path: Path) -> Path:
    """A repository with one file in one commit."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main")
    commit(path, "file", "one\n")
    return path


def commit(directory: Path, name: str, text: str) -> str:
    """Commit a file, and return the commit."""
    (directory / name).write_text(text)
    git(directory, "add", "--", name)
    git(directory, "commit", "--quiet", "-m", f"Write {name}")
    return git(directory, "rev-parse", "HEAD")
