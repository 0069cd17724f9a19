"""The two system calls."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from descartesd.keeper import kernel


def test_hole_gives_blocks_back_and_keeps_the_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 65_536)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        try:
            kernel.punch_hole(file.fileno(), 0, 32_768)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                pytest.skip("this file system punches no holes")
            raise

    assert path.stat().st_size == 65_536
    assert path.stat().st_blocks * 512 <= 32_768
    assert path.read_bytes() == bytes(32_768) + b"x" * 32_768


def test_error_is_the_kernels(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        kernel.punch_hole(-1, 0, 4096)

    assert error.value.errno == errno.EBADF


def test_subreaper_gets_the_orphans() -> None:
    script = (
        "import os, time\n"
        "from descartesd.keeper import kernel\n"
        "kernel.become_subreaper()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.05)\n"
        "        print(os.getppid(), flush=True)\n"
        "    os._exit(0)\n"
        "print(os.getpid(), flush=True)\n"
        "os.wait(); os.wait()"
    )

    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    own, parent = told.stdout.split()
    assert own == parent
