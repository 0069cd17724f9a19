"""Finds lines of the audit log, newest first, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from descartesd.observe.audit_files import backwards, open_to_read, pieces
from descartesd.observe.audit_line import decoded
from descartesd.wire.audit import AuditLine, AuditPage, AuditShow

# Of about 300 bytes each: 1 MiB.
_LINES_A_STEP = 3500
# So much is read for one page; the next one goes on behind it.
_MOST_BYTES = 64 << 20
# A clock that was set back puts later lines in front of earlier times, by no more than that.
_CLOCK_S = 3600.0


class Search:
    """One search. `step` until it returns False, then `page`. Raises OSError.

    `targets` are the words for whom it asks about; empty for everybody.
    """

    def __init__(self, directory: str, asked: AuditShow, targets: frozenset[str]) -> None:
        self._asked = asked
        self._targets = targets
        self._found: list[AuditLine] = []
        self._read = 0
        self._last: int | None = None
        self._is_at_the_end = False
        self._files: list[int] = []
        try:
            for piece in reversed(pieces(directory)):
                if asked.cursor is not None and (piece.first or 0) >= asked.cursor:
                    continue
                self._files.append(open_to_read(directory, piece.name))
        except OSError:
            self.close()
            raise
        self._lines = self._every_line()

    def close(self) -> None:
        """Close the files that have not been read."""
        while self._files:
            os.close(self._files.pop())

    def _every_line(self) -> Iterator[bytes]:
        while self._files:
            fd = self._files[0]
            yield from backwards(fd, os.fstat(fd).st_size)
            os.close(self._files.pop(0))

    def step(self) -> bool:
        """Look at some lines; False when nothing is left to look at."""
        count = 0
        for data in islice(self._lines, _LINES_A_STEP):
            count += 1
            self._read += len(data)
            line = decoded(data)
            if line is not None and not self._take(line):
                return False
        self._is_at_the_end = count < _LINES_A_STEP
        return not self._is_at_the_end and self._read < _MOST_BYTES

    def _take(self, line: AuditLine) -> bool:
        asked = self._asked
        if asked.cursor is not None and line.seq >= asked.cursor:
            return True
        if asked.since is not None and line.time < asked.since - _CLOCK_S:
            self._is_at_the_end = True
            return False
        self._last = line.seq
        if self._is_meant(line):
            self._found.append(line)
        return len(self._found) < asked.limit

    def _is_meant(self, line: AuditLine) -> bool:
        asked = self._asked
        return (
            (asked.since is None or line.time >= asked.since)
            and (asked.until is None or line.time <= asked.until)
            and (asked.who is None or asked.who in (line.identity, line.certificate))
            and (asked.method is None or _fits(asked.method, line.method))
            and (not self._targets or line.target in self._targets)
        )

    def page(self) -> AuditPage:
        """What was found, oldest first."""
        self.close()
        is_end = self._is_at_the_end or self._last in (None, 1)
        return AuditPage(lines=list(reversed(self._found)), cursor=None if is_end else self._last)


def _fits(asked: str, method: str) -> bool:
    return method.startswith(asked[:-1]) if asked.endswith("*") else method == asked
