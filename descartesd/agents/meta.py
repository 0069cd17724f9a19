"""Reads a fact about a registry without opening it to write: its server may run, or be gone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from urllib.parse import quote

from descartesd.errors import NotFoundError, UnavailableError


def read_meta(path: str, key: str) -> str | None:
    """What the registry knows under this key; None for nothing.

    Raises NotFoundError where there is no registry, UnavailableError where it cannot be read.
    """
    if not os.path.exists(path):
        raise NotFoundError(
            f"there is no registry '{path}'", hint="name the directory of a server with --dir"
        )
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error as exc:
        raise UnavailableError(f"the registry '{path}' cannot be read: {exc}") from exc
    return None if row is None else str(row[0])
