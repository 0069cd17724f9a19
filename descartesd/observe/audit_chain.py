"""Follows the lines of the audit log and names where one is not what was written."""

from __future__ import annotations

from descartesd.observe.audit_files import CURRENT
from descartesd.observe.audit_head import Head
from descartesd.observe.audit_line import decoded, hash_of
from descartesd.wire.audit import AuditFault, AuditLine

# What the server notes when it finds at its start that the log was tampered with.
FAULT_METHOD = "audit.fault"
# So many faults tell what there is to tell.
_MOST_FAULTS = 20


class Chain:
    """Takes line after line, and knows the last one: `seq` and `hash`; None before the first."""

    def __init__(
        self, head: Head | None, *, seq: int | None = None, hash_: str | None = None
    ) -> None:
        self._head = head
        self.seq = seq
        self.hash = hash_
        self.first: int | None = None
        self.lines = 0
        self.faults: list[AuditFault] = []
        # The last line there is; line 0 while there is none.
        self._file = CURRENT
        self._number = 0
        self._begin = (CURRENT, 0)

    def take(self, file: str, number: int, data: bytes) -> None:
        """Check one line, without its end, against the one before."""
        line = decoded(data)
        self.lines += 1
        if line is None:
            self._file, self._number = file, number
            # It is taken to be the next one, so that those behind it are not blamed.
            self.seq = (self.seq or 0) + 1
            self.complain_here("was changed: it is no line of the audit log")
        else:
            self._compare(file, number, line)
        self.hash = hash_of(data)
        if line is not None:
            self._judge(line)

    def _compare(self, file: str, number: int, line: AuditLine) -> None:
        before = self.seq
        if before is not None and line.seq == before + 1 and line.prev != self.hash:
            # Told at the line before: it is that one which is not what it was.
            self.complain_here("was changed: the next line names another hash")
        self._file, self._number, self.seq = file, number, line.seq
        if before is None:
            self.first, self._begin = line.seq, (file, number)
        elif line.seq > before + 1:
            self.complain_here(f"lines {before + 1} to {line.seq - 1} are missing before it")
        elif line.seq <= before:
            self.complain_here(f"was inserted or moved: it stands behind line {before}")

    def _judge(self, line: AuditLine) -> None:
        if line.phase == "note" and line.method == FAULT_METHOD:
            self.complain_here(f"the server found when it started that {line.detail}")
        head = self._head
        if head is not None and line.seq == head.seq and self.hash != head.hash:
            self.complain_here("is not the line that was signed")

    def end(self) -> None:
        """No line follows: compare with what was signed."""
        head = self._head
        if head is None:
            return
        last = self.seq or 0
        if last < head.seq:
            self.complain_here(
                f"the log ends here, the signed head is line {head.seq}: its tail was cut"
            )
        if self.first is not None and self.first > head.first:
            what = f"lines {head.first} to {self.first - 1} are missing: the log begins late"
            self.complain(*self._begin, self.first, what)

    def complain(self, file: str, number: int, seq: int, what: str) -> None:
        """Add a fault; the first ones are kept."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(AuditFault(file=file, line=number, seq=seq, what=what))

    def complain_here(self, what: str) -> None:
        """Add a fault whose place is the last line so far."""
        self.complain(self._file, self._number, self.seq or 0, what)
