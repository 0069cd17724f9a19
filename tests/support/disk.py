"""A small disk that can be filled."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(kib: int) -> Iterator[Path]:
    """A file system of this size, private to its owner; skips where nobody may mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = Path(tempfile.mkdtemp(prefix="disk-", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "small", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        path.rmdir()
        pytest.skip("this host lets nobody mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
        path.rmdir()


def fill(disk: Path) -> Path:
    """Leave no room on it; the file that takes it all."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as exc:
            assert exc.errno == errno.ENOSPC  # noqa: PT017 - the end of it
    return filler
