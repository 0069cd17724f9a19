"""The file of the registry: opened to write, or a copy of it in memory while it takes nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from descartesd.errors import StartupRefusedError

SCHEMA_VERSION = 2
UNWRITABLE_HINT = "see that the disk of server.state_dir has room and can be written"
# At so many pages (of 4 KiB) the log is moved into the file by whoever commits.
_LOG_PAGES_MAX = 10_000
# With the log beside it the file is whole; what else is there is made anew.
PARTS = ("", "-wal")
# What the kernel, and SQLite, say of a place that takes nothing now and may do so later.
_UNWRITABLE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
)
_UNWRITABLE_CODES = frozenset(
    (
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
)
# The last one: a table that should be there is missing, or is there and should not be.
_DAMAGED_CODES = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR))
_IN_MEMORY = "/dev/shm"  # noqa: S108 - in a directory of its own, which nobody else may enter
# What each version adds to the one before.
_SCHEMAS = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE agents (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL)
    WITHOUT ROWID;
CREATE TABLE intents (
    identity TEXT NOT NULL, key TEXT NOT NULL, method TEXT NOT NULL, digest BLOB NOT NULL,
    agent_id TEXT, created_at REAL NOT NULL, finished_at REAL, reply BLOB,
    PRIMARY KEY (identity, key)
) WITHOUT ROWID;
CREATE INDEX intents_finished ON intents (identity, finished_at);
""",
    """
CREATE TABLE events (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
DROP INDEX intents_finished;
ALTER TABLE intents RENAME TO intents_1;
CREATE TABLE intents (
    identity TEXT NOT NULL, key TEXT NOT NULL, method TEXT NOT NULL, digest BLOB NOT NULL,
    agent_id TEXT, created_at REAL NOT NULL, finished_at REAL, reply BLOB,
    UNIQUE (identity, key)
);
INSERT INTO intents SELECT * FROM intents_1;
DROP TABLE intents_1;
CREATE INDEX intents_finished ON intents (identity, finished_at) WHERE finished_at IS NOT NULL;
ALTER TABLE agents RENAME TO agents_1;
CREATE TABLE agents (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO agents SELECT id, record FROM agents_1;
DROP TABLE agents_1;
""",
)


class DamagedRegistryError(StartupRefusedError):
    """The file is there, and is no registry any more, or not a whole one."""


class Opened(NamedTuple):
    """A database; `problem` says why it is a copy in memory, None where it is the file."""

    db: sqlite3.Connection
    problem: str | None


def damaged(path: str, cause: object) -> DamagedRegistryError:
    """What is told of a file that cannot be made sense of."""
    return DamagedRegistryError(
        f"the registry '{path}' cannot be read: {cause}",
        hint="restore it from a backup, or move it away to begin with an empty one",
    )


def origin(path: str) -> tuple[int, int] | None:
    """Which file it is; None for none, or an empty one."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None


def opened(path: str) -> Opened:
    """Open it to write, or make a copy where that cannot be.

    Raises DamagedRegistryError, StartupRefusedError for one of a newer version and where not even
    a copy can be made, OSError where something else has its name.
    """
    try:
        return Opened(open_to_write(path), None)
    except OSError as exc:
        if exc.errno not in _UNWRITABLE:
            raise
        problem = exc.strerror or str(exc)
    except sqlite3.DatabaseError as exc:
        if _code(exc) not in _UNWRITABLE_CODES:
            raise refused(path, exc) from exc
        problem = str(exc)
    try:
        return Opened(_in_memory(path), problem)
    except OSError as exc:
        raise refused(path, exc.strerror or exc) from exc
    except sqlite3.DatabaseError as exc:
        raise refused(path, exc) from exc


def open_to_write(path: str) -> sqlite3.Connection:
    """The database, made where there is none, its schema the newest.

    Raises OSError, sqlite3.Error, StartupRefusedError for one of a newer version.
    """
    is_there = os.path.lexists(path)
    if is_there and origin(path) is None:
        raise damaged(path, "it is empty")
    _create_private(path)
    db = _connected(path)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES_MAX}")
        _bring_up_to_date(db, path)
    except BaseException:
        db.close()
        if not is_there and origin(path) is None:
            # It was never more than a name.
            os.unlink(path)
        raise
    return db


@contextlib.contextmanager
def copied(path: str) -> Iterator[str]:
    """A private copy of the file and its log, for the time of a block. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="descartesd-", dir=_roomy(path)) as place:
        copy = os.path.join(place, "registry")
        for part in PARTS:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{part}", f"{copy}{part}")
        yield copy


def _in_memory(path: str) -> sqlite3.Connection:
    db = _connected(":memory:")
    if origin(path) is not None:
        with copied(path) as copy, contextlib.closing(sqlite3.connect(copy)) as found:
            found.backup(db)
    _bring_up_to_date(db, path)
    return db


def _roomy(path: str) -> str | None:
    """Where a copy has room: not on a disk, which may be the very one that is full."""
    needed = sum(os.path.getsize(each) for part in PARTS if os.path.exists(each := path + part))
    with contextlib.suppress(OSError):
        found = os.statvfs(_IN_MEMORY)
        if os.access(_IN_MEMORY, os.W_OK) and found.f_bavail * found.f_frsize > 2 * needed:
            return _IN_MEMORY
    return None


def _connected(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, cached_statements=64)


def _bring_up_to_date(db: sqlite3.Connection, path: str) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise StartupRefusedError(
            f"the registry '{path}' has schema version {version}, newer than the"
            f" {SCHEMA_VERSION} this daemon knows",
            hint="start the newer descartesd that wrote it",
        )
    for number, statements in enumerate(_SCHEMAS[version:], version + 1):
        db.executescript(f"BEGIN; {statements} PRAGMA user_version={number}; COMMIT;")


def refused(path: str, cause: object) -> StartupRefusedError:
    """What is told of one that cannot be used; DamagedRegistryError where the file is at fault."""
    if isinstance(cause, sqlite3.DatabaseError) and _is_damage(cause):
        return damaged(path, cause)
    return StartupRefusedError(
        f"the registry '{path}' cannot be opened: {cause}", hint=UNWRITABLE_HINT
    )


def _code(exc: sqlite3.Error) -> int:
    """The family of an error, without what it says more exactly; 0 for one of Python's own."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def _is_damage(exc: sqlite3.DatabaseError) -> bool:
    # Python itself finds what should be text and is not.
    is_no_text = isinstance(exc, sqlite3.OperationalError) and _code(exc) == 0
    return is_no_text or _code(exc) in _DAMAGED_CODES


def _create_private(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    os.close(fd)
