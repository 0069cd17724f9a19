"""The disk and the kernel of the virtual machine: made once from Debian's packages, then kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

SUITE: Final = "bookworm"
PACKAGES: Final = ("linux-image-cloud-amd64", "procps", "python3", "systemd", "systemd-sysv")
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/lib/modules/*")
SIZE: Final = "1200M"
# The second disk is what goes in, the third what comes out.
JOB: Final = """
[Unit]
Description=The tests
[Service]
Type=oneshot
ExecStart=-/bin/sh -c 'mkdir /run/job && tar -xf /dev/nvme1n1 -C /run/job && exec sh /run/job/run'
ExecStopPost=-/bin/sh -c 'tar -cf /dev/nvme2n1 -C /run/job/out .'
ExecStopPost=systemctl poweroff --force
StandardOutput=journal+console
StandardError=inherit
TasksMax=infinity
"""


class Image(NamedTuple):
    """Files QEMU boots from."""

    disk: Path
    kernel: Path


def image() -> Image:
    """The kept image, made now if there is none of these packages; that takes about a minute."""
    recipe = "\n".join((SUITE, *PACKAGES, *LEFT_OUT, SIZE, JOB))
    name = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "descartesd"
    made = Image(cache / f"vm-{name}.img", cache / f"vm-{name}.kernel")
    if not all(path.exists() for path in made):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dsc-vm-") as work:
            _make(Path(work), made)
    return made


def _make(work: Path, made: Image) -> None:
    tree = work / "tree"
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT), SUITE, tree,
        ],
        check=True,
    )  # fmt: skip
    (tree / "etc/systemd/system/job.service").write_text(JOB)
    kernel = next(tree.glob("boot/vmlinuz-*"))
    disk = work / "disk"
    shutil.copy(kernel, kernel_part := work / "kernel")
    shutil.rmtree(tree / "boot")
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, disk, SIZE], check=True
    )
    # The disk last: where it is, the kernel is too.
    shutil.move(kernel_part, made.kernel)
    shutil.move(disk, made.disk)
