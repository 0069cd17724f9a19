"""A file system that never answers: mounted by FUSE, and nobody reads what the kernel asks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LAZILY: Final = 2  # umount2(2), MNT_DETACH


class HangingFs:
    """Whoever looks into `path` waits, until it dies."""

    def __init__(self, path: Path, fuse: int) -> None:
        self.path = path
        self._fuse = fuse

    def die(self) -> None:
        """Nobody is left to answer: what waits is told so, and what comes later at once."""
        if self._fuse >= 0:
            os.close(self._fuse)
            self._fuse = -1


@contextmanager
def hanging(directory: Path) -> Iterator[HangingFs]:
    """Mount one there; nothing waits for it after the block.

    Skips the test where that cannot be done.
    """
    directory.mkdir()
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        pytest.skip(f"needs /dev/fuse: {exc}")
    mounted = HangingFs(directory, fuse)
    try:
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if _LIBC.mount(b"hanging", os.fsencode(directory), b"fuse.hanging", 0, options) != 0:
            pytest.skip(f"needs root to mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield mounted
        finally:
            _LIBC.umount2(os.fsencode(directory), _LAZILY)
    finally:
        mounted.die()
