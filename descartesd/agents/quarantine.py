"""Opens the registry whatever has become of it: a damaged one is put aside and begun anew.

What can be read of a damaged one is taken over row by row; what its keeper has beside that is
taken in when server and keeper agree. Nobody is to miss it: the log and `server health` tell.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time

import msgspec

from descartesd.agents import database
from descartesd.agents.database import DamagedRegistryError
from descartesd.agents.record import Agent, from_row
from descartesd.agents.registry import Registry

log = logging.getLogger(__name__)

# By what each table is ordered. Read from both ends, so that one damaged page hides itself alone.
_ORDER = {"meta": "key", "agents": "id", "intents": "rowid", "events": "seq"}
_FILES = (*database.PARTS, "-shm")


def open_registry(path: str) -> tuple[Registry, list[Agent]]:
    """The registry and its agents, oldest first.

    Raises StartupRefusedError as `Registry`, and for a damaged one that cannot be put aside.
    """
    try:
        return _opened(path)
    except DamagedRegistryError as damage:
        try:
            aside = _put_aside(path)
        except OSError:
            raise damage from None
        kept = _save_what_can_be_read(aside, path)
        log.error(  # noqa: TRY400  # the sentence says it all
            "registry.damaged", extra={"cause": damage.message, "aside": aside, "kept": kept}
        )
        registry, agents = _opened(path)
        registry.begun_anew = (
            f"the registry was damaged and has been begun anew with {len(agents)} agents;"
            f" the damaged one is '{aside}'"
        )
        return registry, agents


def _opened(path: str) -> tuple[Registry, list[Agent]]:
    """Raises DamagedRegistryError too for what shows only when it is read."""
    registry = Registry(path)
    try:
        agents = list(registry.agents())
        registry.open_intents()
        registry.event_bounds()
        registry.meta("boot_id")
    except sqlite3.DatabaseError as exc:
        registry.close()
        raise database.refused(path, exc) from exc
    except DamagedRegistryError:
        registry.close()
        raise
    return registry, agents


def _put_aside(path: str) -> str:
    """Give it another name, with what belongs to it; the name. Raises OSError."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = f"{path}.damaged-{stamp}"
    for part in _FILES:
        # The file itself first: without it nothing is lost by a crash in between.
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + part, aside + part)
    return aside


def _save_what_can_be_read(aside: str, path: str) -> dict[str, int]:
    """Begin the registry anew with what is readable of the one put aside; rows by table."""
    fresh = database.open_to_write(path)
    kept = {}
    try:
        with database.copied(aside) as copy, contextlib.closing(sqlite3.connect(copy)) as old:
            (version,) = old.execute("PRAGMA user_version").fetchone()
            # Rows of another version mean something else.
            if version == database.SCHEMA_VERSION:
                kept = {table: _take_over(table, old, fresh) for table in _ORDER}
    except (sqlite3.DatabaseError, OSError) as exc:
        log.warning("registry.unreadable", extra={"cause": str(exc)})
    finally:
        fresh.close()
    return kept


def _take_over(table: str, old: sqlite3.Connection, fresh: sqlite3.Connection) -> int:
    fresh.execute("BEGIN")
    for direction in ("ASC", "DESC"):
        try:
            rows = old.execute(f"SELECT * FROM {table} ORDER BY {_ORDER[table]} {direction}")  # noqa: S608
            for row in rows:
                if table != "agents" or _is_whole(row):
                    marks = ", ".join("?" * len(row))
                    fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
        except sqlite3.DatabaseError as exc:
            log.warning("registry.unreadable", extra={"table": table, "cause": str(exc)})
    fresh.execute("COMMIT")
    (count,) = fresh.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(count)


def _is_whole(row: tuple[str, bytes]) -> bool:
    try:
        return from_row(row[1]).id == row[0]
    except msgspec.MsgspecError:
        return False
