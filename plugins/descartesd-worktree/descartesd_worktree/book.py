"""Remembers which worktrees were made, for whom, and from where: one small file for each."""

from __future__ import annotations

import logging
import os
import threading
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

log = logging.getLogger("descartesd.plugins.worktree")

# What the directories of worktrees are called, and their records.
NAME = r"[a-z0-9][a-z0-9._-]{0,62}-[0-9a-f]{8}"


class Record(Struct, frozen=True, kw_only=True):
    """A worktree: its repository's own directory, its branch, and the commit that began at.

    `agent_name` is of the agent it was made for, `agent` the agent's id once that is known.
    """

    name: Annotated[str, Meta(pattern=f"^{NAME}$")]
    path: str
    repo: str
    common: str
    branch: str
    base: str
    owner: str
    created_at: float
    agent_name: str | None = None
    agent: str | None = None
    # Its agent is gone, and it is to go too.
    is_let_go: bool = False

    @property
    def own(self) -> str:
        """Where the repository has what it knows of this worktree."""
        return os.path.join(self.common, "worktrees", self.name)


class Book:
    """The records by name. Any thread may use it. Raises OSError where they cannot be kept."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)  # it may stand in a directory whose group is handed on
        self._records: dict[str, Record] = {}
        for file in sorted(os.listdir(directory)):
            if file.endswith(".json"):
                self._load(os.path.join(directory, file))

    def _load(self, file: str) -> None:
        with open(file, "rb") as source:
            text = source.read()
        try:
            record = msgspec.json.decode(text, type=Record)
        except msgspec.MsgspecError as exc:
            # A host that went down may leave it empty; the worktree itself is there still.
            log.warning("worktree.record_unreadable", extra={"file": file, "cause": str(exc)})
            return
        self._records[record.name] = record

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        with self._lock:
            return sorted(self._records.values(), key=lambda each: each.created_at)

    def get(self, name: str) -> Record | None:
        """The record of this name."""
        with self._lock:
            return self._records.get(name)

    def put(self, record: Record) -> None:
        """Keep a record, in the place of the one of its name."""
        with self._lock:
            self._put(record)

    def _put(self, record: Record) -> None:
        file = self._file(record.name)
        with open(f"{file}.new", "wb") as target:
            target.write(msgspec.json.encode(record))
        os.replace(f"{file}.new", file)
        self._records[record.name] = record

    def change(self, name: str, **facts: object) -> Record | None:
        """Change a record, and return it as it is then; None where there is none."""
        with self._lock:
            record = self._records.get(name)
            if record is None:
                return None
            record = structs.replace(record, **facts)
            self._put(record)
            return record

    def drop(self, name: str) -> None:
        """Forget a record."""
        with self._lock:
            if self._records.pop(name, None) is not None:
                os.unlink(self._file(name))

    def _file(self, name: str) -> str:
        return os.path.join(self._directory, f"{name}.json")
