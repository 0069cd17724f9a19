"""Disks that take nothing: full, read-only, failing."""

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


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Let nobody write into a directory for the time of a block, root neither."""
    if os.geteuid() != 0:
        mode = directory.stat().st_mode
        directory.chmod(0o500)
        try:
            yield
        finally:
            directory.chmod(mode)
        return
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield
    finally:
        # A process that looks at it at this moment does not keep it.
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """Have every write of this process to an open file fail with EIO for the time of a block."""
    fds = [int(name) for name in os.listdir("/proc/self/fd") if _leads_to(name, path)]
    assert fds
    # At its beginning there is nothing: what is written there is an I/O error to the kernel.
    nowhere = os.open("/proc/self/mem", os.O_RDWR)
    kept = [os.dup(fd) for fd in fds]
    try:
        for fd in fds:
            os.dup2(nowhere, fd, inheritable=False)
        yield
    finally:
        for fd, before in zip(fds, kept, strict=True):
            os.dup2(before, fd, inheritable=False)
            os.close(before)
        os.close(nowhere)


def _leads_to(name: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == str(path)
    except OSError:
        return False


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
