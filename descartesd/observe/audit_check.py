"""Verifies the audit log, a piece at a time: its chain over all files, and its signed head."""

from __future__ import annotations

import os
from typing import NamedTuple

from descartesd.keys.z85 import encode_key
from descartesd.observe.audit_chain import Chain
from descartesd.observe.audit_files import open_to_read, pieces
from descartesd.observe.audit_head import Head, is_genuine
from descartesd.wire.audit import AuditReport

_PIECE = 1 << 20
# No line is longer; what has no end in so many bytes is none.
_LINE_MOST = 1 << 20
# Where a fault of the signed head is: it stands in no file of the log.
_HEAD = "signed head"


class Live(NamedTuple):
    """What the running server knows of the last line: number, hash, bytes of the current file."""

    seq: int
    hash: str
    size: int


class Check:
    """One verification. It sees the files as they are when it is made.

    `step` until it returns False, then `report`. Raises OSError.
    """

    def __init__(
        self, directory: str, head: Head | None, public: bytes, live: Live | None = None
    ) -> None:
        self._head = head
        self._public = public
        self._live = live
        self._chain = Chain(head)
        self._torn = 0
        self._number = 0
        self._rest = b""
        self._files: list[tuple[str, int]] = []
        try:
            for piece in pieces(directory):
                self._files.append((piece.name, open_to_read(directory, piece.name)))
        except OSError:
            self.close()
            raise
        self._count = len(self._files)
        self._left = self._size()

    def _size(self) -> int:
        if not self._files:
            return 0
        size = os.fstat(self._files[0][1]).st_size
        # What is being appended meanwhile is not looked at.
        is_current = len(self._files) == 1
        return min(size, self._live.size) if is_current and self._live is not None else size

    def close(self) -> None:
        """Close the files that have not been read."""
        while self._files:
            os.close(self._files.pop()[1])

    def step(self) -> bool:
        """Check up to 1 MiB; False when there is no more."""
        if not self._files:
            return False
        name, fd = self._files[0]
        data = os.read(fd, min(_PIECE, self._left))
        self._left -= len(data)
        if data:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._number += 1
                self._chain.take(name, self._number, line)
        if not data or self._left <= 0 or len(self._rest) > _LINE_MOST:
            self._next_file()
        return True

    def _next_file(self) -> None:
        name, fd = self._files.pop(0)
        os.close(fd)
        if self._rest:
            self._end_in_the_middle(name)
        self._number, self._rest = 0, b""
        self._left = self._size()

    def _end_in_the_middle(self, name: str) -> None:
        if not self._files and self._live is None:
            self._torn = len(self._rest)
            return
        what = "it has no end: the file was changed"
        self._chain.complain(name, self._number + 1, (self._chain.seq or 0) + 1, what)

    def report(self) -> AuditReport:
        """What was found."""
        chain, head, live = self._chain, self._head, self._live
        last = chain.seq or 0
        self._judge_head(last)
        chain.end()
        if live is not None and (last, chain.hash) != (live.seq, live.hash) and live.seq:
            what = f"the last line is not the one this server wrote, line {live.seq}"
            chain.complain_here(what)
        signed_seq = 0 if head is None else head.seq
        return AuditReport(
            holds=not chain.faults,
            files=self._count,
            lines=chain.lines,
            first_seq=chain.first or 0,
            last_seq=last,
            signed_seq=signed_seq,
            signed_at=None if head is None else head.time,
            unsigned=max(last - signed_seq, 0),
            torn_bytes=self._torn,
            public_key=encode_key(self._public),
            faults=chain.faults,
        )

    def _judge_head(self, last: int) -> None:
        head = self._head
        if head is None:
            if last:
                what = "there is no signed head: a cut tail cannot be told"
                self._chain.complain_here(what)
        elif not is_genuine(head, self._public):
            self._chain.complain(_HEAD, 0, head.seq, "the signature of the head does not hold")
        elif self._chain.first is not None and head.seq < self._chain.first:
            what = "the signed head is older than every line: it was put back"
            self._chain.complain(_HEAD, 0, head.seq, what)
