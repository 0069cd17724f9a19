"""The files of the audit log: the current one is appended to, older ones are named by their first
line.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

CURRENT = "audit.jsonl"
_MODE = 0o600
_BLOCK = 1 << 16
_ROTATED = re.compile(r"audit-(\d{12,})\.jsonl")


class Piece(NamedTuple):
    """One file: its name, and the `seq` of its first line as the name tells it (None: current)."""

    name: str
    first: int | None


def pieces(directory: str) -> list[Piece]:
    """The files there are, oldest first, the current one last. Raises OSError."""
    found = []
    for name in os.listdir(directory):
        match = _ROTATED.fullmatch(name)
        if match is not None:
            found.append(Piece(name, int(match[1])))
    found.sort(key=lambda piece: piece.first or 0)
    if os.path.lexists(os.path.join(directory, CURRENT)):
        found.append(Piece(CURRENT, None))
    return found


def open_to_read(directory: str, name: str) -> int:
    """A descriptor of one of them. Raises OSError."""
    return os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def backwards(fd: int, size: int) -> Iterator[bytes]:
    """The lines in the first `size` bytes of a file, the last one first. Raises OSError."""
    rest = b""
    while size > 0:
        length = min(_BLOCK, size)
        size -= length
        rest, *lines = (os.pread(fd, length, size) + rest).split(b"\n")
        yield from filter(None, reversed(lines))
    if rest:
        yield rest


class AuditFile:
    """The current file; what is appended is in it whole or not at all.

    It is opened, or made, by the first append, which drops what stands behind its first `size`
    bytes: these are its whole lines.
    """

    def __init__(self, directory: str, size: int) -> None:
        self._directory = directory
        self._path = os.path.join(directory, CURRENT)
        self._fd = -1
        # Bytes of whole lines, and how many it has when it is opened, where that is known.
        self.size = size
        self._known_size: int | None = size
        # Something may stand behind them.
        self._is_torn = False

    @property
    def is_open(self) -> bool:
        """Whether it has been opened, and not closed since."""
        return self._fd >= 0

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, _MODE)
        os.fchmod(self._fd, _MODE)
        there = os.fstat(self._fd).st_size
        self.size = there if self._known_size is None else min(self._known_size, there)
        self._is_torn = self.size < there
        self._known_size = None

    def close(self) -> None:
        """Close it; the next append opens what has its name then."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def append(self, data: bytes) -> None:
        """Hand bytes to the kernel: a crash of this process does not lose them. Raises OSError."""
        if self._fd < 0:
            self._open()
        if self._is_torn:
            self.cut(self.size)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._is_torn = True
            with contextlib.suppress(OSError):
                self.cut(self.size)
            raise
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Drop what stands behind this many bytes. Raises OSError."""
        os.ftruncate(self._fd, size)
        self.size = size
        self._is_torn = False

    def is_in_place(self) -> bool:
        """Whether what is written goes to the file of that name. Raises OSError."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._fd >= 0 and os.path.samestat(there, os.fstat(self._fd))

    def rotate(self, first: int) -> None:
        """Put it aside under the number of its first line and begin another. Raises OSError."""
        os.rename(self._path, os.path.join(self._directory, f"audit-{first:012d}.jsonl"))
        self.close()
        # Not before it can be made: on a full disk that may be later.
        self.size = 0

    def duplicate(self) -> int:
        """A descriptor of its own for who works beside the loop. Raises OSError."""
        return os.dup(self._fd)


def expired(directory: str, keep: int) -> list[str]:
    """The files over that number, oldest first. Raises OSError."""
    aside = [piece.name for piece in pieces(directory) if piece.first is not None]
    return aside[: max(len(aside) - keep, 0)]
