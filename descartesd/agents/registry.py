"""The registry: agents and intents in SQLite, so that a crash forgets nothing it promised.

WAL with synchronous=NORMAL: what is committed survives the daemon; only a dying host can lose the
last commits, and it takes the agents with it.
Changes gather until they are written in one transaction, which must come before anything they
promise is visible outside. What a failing disk refuses waits for the next transaction. Whoever
waits by `durable` shares a transaction with everybody who does so in the same millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Literal, NamedTuple

import msgspec

from descartesd.agents import database
from descartesd.agents.record import Agent, from_row, to_row
from descartesd.errors import StartupRefusedError, UnavailableError

log = logging.getLogger(__name__)

# So far apart transactions begin while several wait for them: one costs the same for a single
# change as for many.
_GATHER_S = 0.003
# So long what the disk refused waits for the next try.
_RETRY_S = 1.0
INTENT_AGE_S = 24 * 3600.0
INTENTS_PER_IDENTITY = 10_000
REPLY_BYTES_PER_IDENTITY = 64 << 20
_EXPIRE_EVERY_S = 60.0

Table = Literal["agents", "events", "intents", "meta"]
# What tells a row, and a kind of change to it, from others of its table.
Row = tuple[str, ...] | int
MetaKey = Literal["audit_head", "boot_id", "keeper", "kept", "revoked", "server_id"]


class Intent(NamedTuple):
    """A request under an idempotency key; `reply` is None while it is open."""

    identity: str
    key: str
    method: str
    digest: bytes
    agent_id: str | None
    created_at: float
    reply: bytes | None


_INTENT_COLUMNS = "identity, key, method, digest, agent_id, created_at, reply"
# The newest answer of an identity stays, however large it is.
_DROP_CROWDED = """
DELETE FROM intents WHERE (identity, key) IN (SELECT identity, key FROM (
    SELECT identity, key, row_number() OVER newest AS place, sum(length(reply)) OVER newest AS size
    FROM intents WHERE finished_at IS NOT NULL AND identity IN (
        SELECT identity FROM intents WHERE finished_at IS NOT NULL
        GROUP BY identity HAVING count(*) > ?1 OR sum(length(reply)) > ?2)
    WINDOW newest AS (PARTITION BY identity ORDER BY finished_at DESC, key))
WHERE place > ?1 OR (place > 1 AND size > ?2))
"""


class Registry:
    """Owns the database file. Not thread-safe: it lives in the event loop's thread."""

    def __init__(self, path: str) -> None:
        # Why the last transaction failed; None while what has been recorded is durable.
        self.problem: str | None = None
        self.failures = 0
        # Why nothing is to be begun although it could be recorded.
        self.barred: str | None = None
        # What became of the registry before this one, for people; None where it is the same.
        self.begun_anew: str | None = None
        # Called after each transaction: what was recorded before it is durable now.
        self.on_saved: list[Callable[[], None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._is_due = False
        self._not_before = 0.0
        self._expire_at = 0.0
        # By table: the last change of each kind to each row, in the order they were made in.
        self._unsaved: dict[Table, dict[Row, tuple[str, tuple[object, ...]]]] = {}
        self._path = path
        self._origin = database.origin(path)
        opened = database.opened(path)
        self._db, self._is_copy = opened.db, opened.problem is not None
        self._has_log = not self._is_copy
        if opened.problem is not None:
            self._complain(opened.problem)

    def close(self) -> None:
        """Write what can be written, and close."""
        self.save()
        self._db.close()

    def _unwritable(self, problem: str | None) -> UnavailableError:
        return UnavailableError(
            f"the registry cannot be written: {problem}", hint=database.UNWRITABLE_HINT
        )

    def _complain(self, problem: str) -> None:
        if self.problem is None:
            log.error("registry.unwritable", extra={"cause": problem})
        self.problem = problem
        self.failures += 1

    async def durable(self) -> None:
        """Wait until everything recorded so far is durable.

        Raises UnavailableError when it cannot be.
        """
        if not self._unsaved:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.save_soon()
        await done

    def save_soon(self) -> None:
        """Have what is recorded by then committed once this turn of the loop is over.

        Or a little later, on a busy server: as soon as the transaction before is long enough ago.
        """
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_at(self._not_before, self._save_for_all)

    def _save_for_all(self) -> None:
        self._is_due = False
        waiting, self._waiting = self._waiting, []
        now = asyncio.get_running_loop().time()
        is_saved = self.save()
        if not is_saved:
            self._not_before = now + _RETRY_S
        elif len(waiting) > 1:
            self._not_before = now + _GATHER_S
        for done in waiting:
            if done.done():
                continue
            if is_saved:
                done.set_result(None)
            else:
                done.set_exception(self._unwritable(self.problem))

    def save(self) -> bool:
        """Commit what is true whether it can be recorded or not; False when it could not."""
        if not self._unsaved and self.problem is None:
            return True
        try:
            self._write()
        except sqlite3.Error as exc:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._complain(str(exc))
            return False
        self._unsaved.clear()
        if self.problem is not None:
            log.info("registry.writable")
            self.problem = None
            self._not_before = 0.0
        for tell in self.on_saved:
            tell()
        return True

    def _write(self) -> None:
        if self._is_copy:
            self._come_back()
        self._db.execute("BEGIN IMMEDIATE")
        for changes in self._unsaved.values():
            # Many rows by one statement cost half of what they cost one by one.
            for sql, alike in itertools.groupby(changes.values(), key=itemgetter(0)):
                self._db.executemany(sql, [values for _, values in alike])
        self._db.execute("COMMIT")
        self._has_log = True

    def _come_back(self) -> None:
        """Go on with the file instead of the copy that was made while it could not be written."""
        if database.origin(self._path) != self._origin:
            raise sqlite3.OperationalError("it is not the file of before: restart the server")
        try:
            db = database.open_to_write(self._path)
        except OSError as exc:
            raise sqlite3.OperationalError(exc.strerror) from exc
        except StartupRefusedError as exc:
            raise sqlite3.OperationalError(exc.message) from exc
        self._db.close()
        self._db, self._is_copy, self._has_log = db, False, True

    async def tidy(self) -> None:
        """Try again what could not be written, and drop answers that nobody asks for any more.

        The log is moved into the file beside the loop: that waits for the disk, and nobody's commit
        is to wait for it too.
        """
        if time.monotonic() >= self._expire_at:
            self._expire_at = time.monotonic() + _EXPIRE_EVERY_S
            self.expire_intents(time.time())
        self.save()
        if not self._has_log:
            return
        self._has_log = False
        try:
            await asyncio.to_thread(_checkpoint, self._path)
        except sqlite3.Error as exc:
            log.debug("registry.log_stays", extra={"cause": str(exc)})
            self._has_log = True

    def check(self) -> None:
        """Refuse new work while nothing can be recorded; raises UnavailableError."""
        if self.barred is not None:
            raise self._unwritable(self.barred)
        if self.problem is not None and not self.save():
            raise self._unwritable(self.problem)

    def _change(self, table: Table, row: Row, sql: str, *values: object) -> None:
        changes = self._unsaved.get(table)
        if changes is None:
            changes = self._unsaved[table] = {}
        changes.pop(row, None)
        changes[row] = (sql, values)

    def agents(self) -> Iterator[Agent]:
        """Every agent, oldest first; raises DamagedRegistryError on a damaged row."""
        for agent_id, row in self._db.execute("SELECT id, record FROM agents ORDER BY id"):
            try:
                yield from_row(row)
            except msgspec.DecodeError as exc:
                raise database.damaged(self._path, f"agent {agent_id}: {exc}") from exc

    def put_agent(self, agent: Agent) -> None:
        """Store an agent as it is now."""
        self._change(
            "agents",
            (agent.id,),
            "INSERT OR REPLACE INTO agents VALUES (?, ?)",
            agent.id,
            to_row(agent),
        )

    def drop_agent(self, agent_id: str) -> None:
        """Forget an agent."""
        self._change("agents", (agent_id,), "DELETE FROM agents WHERE id = ?", agent_id)

    def intent(self, identity: str, key: str, now: float) -> Intent | None:
        """Look a key up whose answer, if there is one, is not older than a day."""
        row = self._db.execute(
            f"SELECT {_INTENT_COLUMNS} FROM intents WHERE identity = ? AND key = ?"  # noqa: S608
            " AND (finished_at IS NULL OR finished_at >= ?)",
            (identity, key, now - INTENT_AGE_S),
        ).fetchone()
        return Intent(*row) if row else None

    def open_intents(self) -> list[Intent]:
        """What was begun and not answered: the work of a daemon that died."""
        rows = self._db.execute(
            f"SELECT {_INTENT_COLUMNS} FROM intents WHERE reply IS NULL"  # noqa: S608
        )
        return [Intent(*row) for row in rows]

    def begin_intent(self, intent: Intent) -> None:
        """Record that the work under this key begins; an answer under it is dropped."""
        self._change(
            "intents",
            ("begin", intent.identity, intent.key),
            "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
            *intent[:6],
        )

    def bind_intent(self, identity: str, key: str, agent_id: str) -> None:
        """Record which agent an open intent makes; of several the ids, a space between them."""
        changes = self._unsaved.get("intents", {})
        begun = changes.get(("begin", identity, key))
        if begun is not None:
            sql, values = begun
            changes["begin", identity, key] = (sql, (*values[:4], agent_id, values[5]))
            return
        self._change(
            "intents",
            ("bind", identity, key),
            "UPDATE intents SET agent_id = ? WHERE identity = ? AND key = ?",
            agent_id,
            identity,
            key,
        )

    def finish_intent(self, identity: str, key: str, reply: bytes, now: float) -> None:
        """Record the answer under a key; the same request is answered with it from now on."""
        self._change(
            "intents",
            ("finish", identity, key),
            "UPDATE intents SET reply = ?, finished_at = ? WHERE identity = ? AND key = ?",
            reply,
            now,
            identity,
            key,
        )

    def drop_intent(self, identity: str, key: str) -> None:
        """Forget a key: the same request is carried out anew."""
        self._change(
            "intents",
            ("finish", identity, key),
            "DELETE FROM intents WHERE identity = ? AND key = ?",
            identity,
            key,
        )

    def expire_intents(self, now: float) -> None:
        """Drop answers older than a day, and the oldest above the bound of each identity."""
        oldest = now - INTENT_AGE_S
        most, most_bytes = INTENTS_PER_IDENTITY, REPLY_BYTES_PER_IDENTITY
        self._change("intents", ("old",), "DELETE FROM intents WHERE finished_at < ?", oldest)
        self._change("intents", ("crowded",), _DROP_CROWDED, most, most_bytes)

    def put_event(self, seq: int, record: bytes) -> None:
        """Store an event."""
        # Each is new: there is none before it to be taken out.
        events = self._unsaved.setdefault("events", {})
        events[seq] = ("INSERT INTO events VALUES (?, ?)", (seq, record))

    def events(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The next events behind `after`, with their numbers."""
        return self._db.execute(
            "SELECT seq, record FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        ).fetchall()

    def event_bounds(self) -> tuple[int, int]:
        """The numbers of the first and the last event kept; (0, 0) where there is none."""
        first, last = self._db.execute("SELECT min(seq), max(seq) FROM events").fetchone()
        return (first or 0, last or 0)

    def expire_events(self, before: int) -> None:
        """Drop the events in front of this one."""
        self._change("events", ("old",), "DELETE FROM events WHERE seq < ?", before)

    def meta(self, key: MetaKey) -> str | None:
        """Read a fact about the registry itself."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: MetaKey, value: str) -> None:
        """Write a fact about the registry itself."""
        self._change("meta", (key,), "INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)


def _checkpoint(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
