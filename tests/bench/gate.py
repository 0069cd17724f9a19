"""A gate that processes wait at until all of them may go on together."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Gate:
    """A FIFO: opening it for reading waits until somebody has it open for writing (fifo(7))."""

    def __init__(self, directory: Path) -> None:
        free = (directory / f"gate-{number}" for number in itertools.count())
        self.path = next(str(path) for path in free if not path.exists())
        os.mkfifo(self.path)
        self._fd = -1

    def open(self) -> None:
        """Let everyone on, late comers too."""
        # For both ways: that does not wait for a reader.
        self._fd = os.open(self.path, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd < 0:
            # Nobody may wait for ever, whatever has happened here.
            self.open()
        os.unlink(self.path)
        os.close(self._fd)
