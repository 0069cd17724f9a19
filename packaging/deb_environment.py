"""The programs of the Debian package, and what they import, in an environment of their own."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = "usr/lib/descartesd"
PROGRAMS = {
    "descartesd": "descartesd.main",
    "descartesctl": "descartesd.ctl.main",
    "descartes-keeper": "descartesd.keeper.main",
}
PROGRAM = """#!/{home}/bin/python3
import sys

from {module} import main

sys.exit(main())
"""


def environment(tree: Path, work: Path) -> None:
    """An environment as venv makes it, on Debian's own interpreter."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tree / HOME / "lib" / python / "site-packages"
    packages.mkdir(parents=True)
    for name in bundled():
        _copy(name, packages)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = work.glob("descartesd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    binaries = tree / HOME / "bin"
    binaries.mkdir()
    (binaries / "python3").symlink_to("../../../bin/python3")
    (tree / HOME / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python[6:]}\n"
    )
    (tree / "usr/bin").mkdir()
    for name, module in PROGRAMS.items():
        (binaries / name).write_text(PROGRAM.format(home=HOME, module=module))
        (tree / "usr/bin" / name).symlink_to(f"../lib/descartesd/bin/{name}")


def bundled() -> list[str]:
    """The distributions the package has in it, its own not among them."""
    return sorted(_needed("descartesd", {"cli"}) - {"descartesd"})


def _needed(name: str, extras: set[str]) -> set[str]:
    """A distribution and all it needs, by name."""
    found = {name}
    for requirement in metadata.requires(name) or ():
        wanted = re.match(r"[A-Za-z0-9_.-]+", requirement)
        condition = requirement.partition(";")[2]
        extra = re.search(r"extra == ['\"]([a-z]+)['\"]", condition)
        if wanted is None or (extra and extra[1] not in extras):
            continue
        # Of what only other systems need nothing is installed here.
        if wanted[0] not in found and _is_installed(wanted[0]):
            found |= _needed(wanted[0], set())
    return found


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _copy(name: str, packages: Path) -> None:
    for file in metadata.files(name) or ():
        # Programs stand outside; a script that a library's licences were gathered with is no use.
        if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".sh":
            continue
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file.locate(), target)
