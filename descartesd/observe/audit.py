"""The audit log: who changed what, one line before the work and one after it, hash-chained.

An intent is handed to the kernel before the work is begun, so a crash of the daemon loses none;
what may wait, the outcomes and refusals of one turn of the loop, shares a write. The head is made
durable and signed once a minute. Not thread-safe: it lives in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import structs

from descartesd.errors import UnavailableError
from descartesd.keys.seal import Sealer
from descartesd.observe import audit_files, audit_head
from descartesd.observe.audit_chain import FAULT_METHOD
from descartesd.observe.audit_check import Check, Live
from descartesd.observe.audit_head import Head, HeadStore
from descartesd.observe.audit_line import Entry, encoded, hash_of
from descartesd.observe.audit_search import Search
from descartesd.observe.audit_start import find_end
from descartesd.wire.audit import AuditShow

log = logging.getLogger(__name__)

_HEAD_EVERY_S = 60.0
# What cannot be written waits, up to so many lines.
_MOST_PENDING = 10_000
_TORN_SHOWN = 1024
_OURSELVES = "server"
_UNWRITABLE_HINT = "see that the disk of server.state_dir has room and can be written"


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Where it is, what happens while it cannot be written, its size in bytes, files put aside."""

    directory: str
    on_error: Literal["refuse", "continue"] = "refuse"
    max_bytes: int = 64 << 20
    keep_files: int = 10


class AuditLog:
    """Writes the log. Raises OSError when it cannot be read; that it takes nothing is a problem."""

    def __init__(
        self,
        options: AuditOptions,
        sealer: Sealer,
        heads: HeadStore,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Why the last write failed; None while every line is written.
        self.problem: str | None = None
        self.failures = 0
        # What somebody has done to the log, as far as this process has noticed.
        self.fault: str | None = None
        self._options = options
        self._sealer = sealer
        self._heads = heads
        self._clock = clock
        self._pending: list[tuple[float, Entry]] = []
        self._lost = 0
        self._is_due = False
        self.head = audit_head.head_of(heads.load())
        end = find_end(options.directory, self.head)
        self.seq, self.hash = end.seq, end.hash
        self._file_first, self._first = end.file_first, end.first
        self._file = audit_files.AuditFile(options.directory, end.size)
        self._sign_at = 0.0
        # A start that is refused says why, and nothing else.
        self._tells = False
        # Files put aside that may not be on the disk yet.
        self._unsynced: list[int] = []
        if end.torn:
            self._note("audit.torn", _torn(end.torn))
        if end.fault is not None:
            self._find_fault(end.fault)
        if self.head is not None and not audit_head.is_genuine(self.head, sealer.public):
            self._find_fault("the signature of the head did not hold, or was of another key")
        self._note("server.start")
        if self.flush() and self.head is None:
            _sync(self._take_unsynced())
            self._keep(self._head_now(0))

    @property
    def public_key(self) -> bytes:
        """What checks the signature of the head."""
        return self._sealer.public

    @property
    def directory(self) -> str:
        """Where its files are."""
        return self._options.directory

    @property
    def trouble(self) -> str | None:
        """What does not work, and what that means; None where all does."""
        if self.problem is None:
            return None if self.fault is None else f"the audit log was changed: {self.fault}"
        means = "refused" if self._options.on_error == "refuse" else "made unrecorded"
        return f"the audit log cannot be written, changes are {means}: {self.problem}"

    # -- lines

    def intent(self, entry: Entry) -> int | None:
        """Write that work begins, before it does; the number of the line, None for one unwritten.

        Raises UnavailableError while nothing can be written, unless changes go on without.
        """
        self._pending.append((self._clock(), entry))
        self._tells = True
        if self.flush():
            return self.seq
        if self._options.on_error == "refuse":
            self._pending.pop()
            raise UnavailableError(
                f"the audit log cannot be written: {self.problem}",
                hint=_UNWRITABLE_HINT,
            )
        self._bound()
        return None

    def add(self, *entries: Entry) -> None:
        """Have lines written at the end of this turn of the loop."""
        now = self._clock()
        self._pending.extend((now, entry) for entry in entries)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._is_due = False
        if not self.flush():
            self._bound()

    def _note(self, method: str, detail: str | None = None, *, total: int | None = None) -> None:
        entry = Entry(_OURSELVES, method, "note", detail=detail, count=total)
        self._pending.append((self._clock(), entry))

    def _find_fault(self, what: str) -> None:
        """Write down that the log is not what was written: no later signature hides it."""
        self.fault = what
        log.error("audit.fault", extra={"cause": what})
        self._note(FAULT_METHOD, what)

    def _bound(self) -> None:
        over = len(self._pending) - _MOST_PENDING
        if over > 0:
            del self._pending[:over]
            self._lost += over

    def flush(self) -> bool:
        """Hand every line to the kernel; False when it does not take them."""
        if not self._pending:
            return True
        if self._lost:
            self._note("audit.lost", "these lines could not be written", total=self._lost)
            lost, self._lost = self._lost, 0
        else:
            lost = 0
        try:
            self._write()
        except OSError as exc:
            if lost:
                self._pending.pop()
                self._lost = lost
            self._complain(f"{exc.strerror}")
            return False
        self._pending.clear()
        if self.problem is not None:
            log.info("audit.writable")
            self.problem = None
        return True

    def _complain(self, problem: str) -> None:
        if self.problem is None:
            log.error("audit.unwritable", extra={"cause": problem})
        self.problem = problem
        self.failures += 1

    def _write(self) -> None:
        if self._file.size >= self._options.max_bytes:
            self._rotate()
        seq, prev = self.seq, self.hash
        lines = []
        for when, entry in self._pending:
            seq += 1
            line = encoded(seq, when, entry, prev)
            prev = hash_of(line)
            lines.append(line)
        lines.append(b"")
        self._file.append(b"\n".join(lines))
        self.seq, self.hash = seq, prev

    # -- files

    def _rotate(self) -> None:
        self._unsynced.append(self._file.duplicate())
        self._file.rotate(self._file_first)
        self._file_first = self.seq + 1
        self._sign_at = 0.0

    async def tidy(self) -> None:
        """Try again what could not be written, and sign the head when it is time.

        To be called about once a second.
        """
        self._tells = True
        self._look_for_the_file()
        if self.problem is not None and not self._pending:
            self._note("audit.resumed", f"it could not be written: {self.problem}")
        if not self.flush() or time.monotonic() < self._sign_at:
            return
        self._sign_at = time.monotonic() + _HEAD_EVERY_S
        try:
            await self.sign()
        except OSError as exc:
            self._sign_at = 0.0
            self._complain(f"{exc.strerror}")

    def _look_for_the_file(self) -> None:
        try:
            if not self._file.is_open or self._file.is_in_place():
                return
            # Somebody has moved or removed it: what would be written there nobody would find.
            self._file.close()
            self._file_first = self.seq + 1
            self._find_fault("the current file was removed while the server ran")
        except OSError as exc:
            self._complain(f"{exc.strerror}")

    async def sign(self) -> None:
        """Sign how far the log reaches, once that is on the disk. Raises OSError."""
        expired = audit_files.expired(self.directory, self._options.keep_files)
        head = self._head_now(len(expired))
        if self.head is not None and (head.seq, head.first) == (self.head.seq, self.head.first):
            return
        await asyncio.to_thread(_sync, self._take_unsynced())
        self._keep(head, expired)

    def _take_unsynced(self) -> list[int]:
        taken, self._unsynced = self._unsynced, []
        return [*taken, self._file.duplicate()]

    def _head_now(self, expired: int) -> Head:
        aside = [piece.first for piece in audit_files.pieces(self.directory) if piece.first]
        left = aside[expired:]
        self._first = left[0] if left else self._file_first
        return Head(
            seq=self.seq,
            hash=self.hash,
            file_first=self._file_first,
            offset=self._file.size,
            first=self._first,
            time=round(self._clock(), 6),
            key="",
        )

    def _keep(self, head: Head, expired: Sequence[str] = ()) -> None:
        head = audit_head.signed(head, self._sealer)
        if not self._heads.save(audit_head.text_of(head)):
            self._sign_at = 0.0
            return
        self.head = head
        if self._tells:
            log.info("audit.head", extra=structs.asdict(head))
        # Not before: a file the head that is kept still names is not to be missing.
        for name in expired:
            os.unlink(os.path.join(self.directory, name))

    def check(self) -> Check:
        """Verify what is there now. Raises OSError."""
        self.flush()
        live = Live(self.seq, self.hash, self._file.size)
        return Check(self.directory, self.head, self.public_key, live)

    def search(self, asked: AuditShow, targets: frozenset[str]) -> Search:
        """Look for lines in what is there now. Raises OSError."""
        self.flush()
        return Search(self.directory, asked, targets)

    def close(self) -> None:
        """Write what can be written, sign the head, and close."""
        self._note("server.stop")
        try:
            if self.flush():
                _sync(self._take_unsynced())
                self._keep(self._head_now(0))
        except OSError as exc:
            self._complain(f"{exc.strerror}")
        finally:
            self._file.close()


def _sync(descriptors: list[int]) -> None:
    """Put files on the disk and close them. Raises OSError."""
    try:
        for fd in descriptors:
            os.fdatasync(fd)
    finally:
        for fd in descriptors:
            os.close(fd)


def _torn(data: bytes) -> str:
    shown = data[:_TORN_SHOWN].decode("utf-8", "replace")
    return f"{len(data)} bytes of a line that a crash cut short: {shown}"
