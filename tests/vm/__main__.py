"""Boots a virtual machine, runs the checks of this directory in it, and tells how they went.

python -m tests.vm [PYTEST-OPTION]…: exit status 0 when every check passed. Needs qemu-system-x86,
mmdebstrap and e2fsprogs, and root to make the disk the first time. The processor is emulated.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.support.guest import PROGRAMS as GUEST_PROGRAMS
from tests.vm.image import Image, image

PROGRAMS: Final = ("qemu-system-x86_64", "mmdebstrap", "mke2fs")
ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 600
BUILD: Final = ROOT / "packaging" / "build_deb.py"
# None of them is needed to run the tests.
LEFT_OUT: Final = (
    *("mypy", "mypyc", "pip", "setuptools", "pkg_resources", "ruff", "hatchling"),
    *("kubernetes_validate", "jsonschema", "grpc", "opentelemetry"),
)
CHECKS: Final = (
    "tests/vm/check_limits.py",
    "tests/vm/check_service.py",
    "tests/vm/check_package.py",
    "tests/unit/keeper/test_cgroup.py",
    "tests/unit/keeper/test_users.py",
    # Its time is that of a real processor; check_limits has another.
    "--deselect=tests/unit/keeper/test_cgroup.py::test_fork_bomb_dies_at_once_and_the_others_live",
)
KERNEL_LINE: Final = (
    "root=/dev/nvme0n1 rw console=ttyS0 panic=-1 systemd.unit=job.service mitigations=off"
    " selinux=0 audit=0 apparmor=0 nokaslr random.trust_cpu=on tsc=reliable no_timer_check"
    " loglevel=4 systemd.mask=systemd-udevd.service systemd.mask=systemd-udev-trigger.service"
    " systemd.mask=systemd-udevd-kernel.socket systemd.mask=systemd-udevd-control.socket"
    " systemd.mask=systemd-tmpfiles-setup-dev.service"
)
# The controllers of the first level are systemd's to enable, which it does where a unit needs them.
RUN: Final = """
mkdir /run/job/out
ln -s /usr/bin/python3 /run/job/bin/python3
chmod +x /run/job/bin/*
cd /run/job/source
export PYTHONPATH=/run/job/source:/run/job/packages PATH=/run/job/bin:$PATH HOME=/root
for controller in memory cpu pids; do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
/run/job/bin/python3 -m pytest -p no:cacheprovider -o timeout=120 WORDS > /run/job/out/report 2>&1
echo $? > /run/job/out/status
"""


def main(options: list[str]) -> int:
    """Run the checks; the exit status of pytest, 1 when the machine told nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"needs {', '.join(missing)}: apt install qemu-system-x86 mmdebstrap e2fsprogs")
        return 2
    with tempfile.TemporaryDirectory(prefix="dsc-vm-") as work:
        return _run(image(), Path(work), options or list(CHECKS))


def _run(machine: Image, work: Path, words: list[str]) -> int:
    console, out = work / "console", work / "out"
    build = [sys.executable, BUILD, work / "deb", "--fast"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    _pack(work, words)
    out.write_bytes(b"")
    os.truncate(out, 16 << 20)
    subprocess.run(_command(machine, work), check=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)
    try:
        with tarfile.open(out) as result:
            result.extractall(work / "told", filter="data")
        print((work / "told" / "report").read_text())
        return int((work / "told" / "status").read_text())
    except (OSError, ValueError, tarfile.TarError) as exc:
        print(f"the machine told nothing: {exc}\n{console.read_text(errors='replace')[-4000:]}")
        return 1


def _pack(work: Path, words: list[str]) -> None:
    path = work / "in"
    packages = Path(sysconfig.get_path("purelib"))
    texts = {
        "run": RUN.replace("WORDS", " ".join(map(shlex.quote, words))),
        **{f"bin/{name}": text for name, text in GUEST_PROGRAMS.items()},
    }
    with tarfile.open(path, "w") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name in ("descartesd", "tests", "pyproject.toml"):
            archive.add(ROOT / name, f"source/{name}", filter=_worth_it)
        archive.add(work / "deb", "deb")
        for each in packages.iterdir():
            if each.name not in LEFT_OUT and "__mypyc" not in each.name:
                archive.add(each, f"packages/{each.name}", filter=_worth_it)
    # Whole blocks, as a disk has them.
    os.truncate(path, -(-path.stat().st_size // 4096) * 4096)


def _worth_it(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith((".img", "/.hypothesis")) else member


def _command(machine: Image, work: Path) -> list[str | Path]:
    disks = ((machine.disk, "on"), (work / "in", "on"), (work / "out", "off"))
    command: list[str | Path] = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2",
        "-m", "1024", "-cpu", "max", "-nographic", "-no-reboot", "-nodefaults",
        "-serial", f"file:{work / 'console'}", "-kernel", machine.kernel, "-append", KERNEL_LINE,
    ]  # fmt: skip
    for number, (path, snapshot) in enumerate(disks):
        drive = f"file={path},if=none,format=raw,id=d{number},snapshot={snapshot}"
        command += ["-drive", drive, "-device", f"nvme,serial=d{number},drive=d{number}"]
    return command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
