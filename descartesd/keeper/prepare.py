"""What a child does between fork(2) and execve(2), and how its parent learns what went wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

_NAME_BYTES: Final = 64
Step = tuple[str, Callable[[], None]]


class Preparation:
    """Steps by name, to be called in the child; `failure` tells the parent which one failed."""

    def __init__(self, steps: list[Step]) -> None:
        """Raises OSError without a descriptor for the answer."""
        self._steps = steps
        # Both ends close at execve(2).
        self._reader, self._writer = os.pipe()

    def __call__(self) -> None:
        """Take every step; raises OSError or ValueError, which ends the child."""
        for name, step in self._steps:
            try:
                step()
            except (OSError, ValueError) as exc:
                # resource.setrlimit turns EPERM and EINVAL into ValueError.
                code = exc.errno if isinstance(exc, OSError) else errno.EPERM
                os.write(self._writer, f"{name} {code}".encode())
                raise

    def failure(self) -> tuple[str, int] | None:
        """The name and errno of the step that failed in the child, which has ended."""
        os.set_blocking(self._reader, False)
        try:
            told = os.read(self._reader, _NAME_BYTES).decode()
        except BlockingIOError:
            return None
        name, _, code = told.rpartition(" ")
        return name, int(code)

    def close(self) -> None:
        """Close the parent's descriptors."""
        os.close(self._reader)
        os.close(self._writer)
