"""When what is built was last changed, so that building it again makes the same."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def source_date() -> datetime:
    """The time SOURCE_DATE_EPOCH says, else that of the last commit, else that of the changelog."""
    told = os.environ.get("SOURCE_DATE_EPOCH") or _committed()
    return datetime.fromtimestamp(int(told or (_ROOT / "CHANGELOG.md").stat().st_mtime), UTC)


def _committed() -> str:
    if not (_ROOT / ".git").exists():
        return ""
    asking = ("git", "log", "-1", "--format=%ct")
    done = subprocess.run(asking, cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
