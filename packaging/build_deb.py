#!/usr/bin/env python3
"""Builds the Debian package: `python packaging/build_deb.py [OUT]`, with dpkg-deb and the wheel.

What the programs import is taken as it is installed in this virtual environment, which is locked
by hashes; so nothing is fetched. The package has an environment of its own in /usr/lib/descartesd.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from deb_environment import environment
from deb_files import files
from deb_texts import maintainer

ROOT = Path(__file__).parents[1]
# Of the package itself, where the version of what is in it stays.
REVISION = "1"
# The libraries were compiled for this Python, and for what manylinux_2_28 promises.
DEPENDS = (
    "python3 (>= {python})",
    "python3 (<< {next_python}~)",
    "libc6 (>= 2.28)",
    "libstdc++6",
    "systemd (>= 252)",
)
CONTROL = """Package: descartesd
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {depends}
Section: admin
Priority: optional
Description: daemon that starts, supervises and controls agent processes
 It gives many clients fleets of agent processes over encrypted ZeroMQ:
 spawn, output, pause, restarts, limits, queues, roles and an audit log.
 A crash or an upgrade of the daemon touches no agent.
"""


def main(out: Path, *, fast: bool = False) -> Path:
    """Build the package into a directory, larger than it has to be if `fast`; its path."""
    # Of this source, which need not be the one that is installed here.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = f"{project['version']}-{REVISION}"
    architecture = _told("dpkg", "--print-architecture")
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dsc-deb-") as work:
        tree = Path(work) / "tree"
        environment(tree, Path(work))
        files(tree, version)
        _control(tree, version, architecture)
        made = out / f"descartesd_{version}_{architecture}.deb"
        _set_modes(tree)
        subprocess.run(
            [  # noqa: S607  # whichever is in the PATH
                "dpkg-deb", "--root-owner-group", "-Zgzip" if fast else "-Zxz",
                *(["-z1"] if fast else []), "--build", tree, made,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return made


def _control(tree: Path, version: str, architecture: str) -> None:
    control = tree / "DEBIAN"
    control.mkdir()
    packed = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    minor = sys.version_info.minor
    text = CONTROL.format(
        version=version,
        maintainer=maintainer(),
        architecture=architecture,
        size=sum(path.stat().st_size for path in packed) // 1024,
        depends=", ".join(DEPENDS).format(python=f"3.{minor}", next_python=f"3.{minor + 1}"),
    )
    (control / "control").write_text(text)
    (control / "conffiles").write_text("/etc/descartesd/descartesd.toml\n")
    sums = (
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        f"  {path.relative_to(tree)}\n"
        for path in packed
    )
    (control / "md5sums").write_text("".join(sums))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(ROOT / "packaging/deb" / name, control / name)


def _set_modes(tree: Path) -> None:
    """Of those in the package alone, whatever umask it is built under."""
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        runs = path.is_dir() or (path.parent.name in ("bin", "DEBIAN") and "." not in path.name)
        path.chmod(0o755 if runs else 0o644)
    for name in ("control", "conffiles", "md5sums"):
        (tree / "DEBIAN" / name).chmod(0o644)
    (tree / "etc/descartesd/keys").chmod(0o700)


def _told(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    words = sys.argv[1:]
    places = [word for word in words if word != "--fast"]
    print(main(Path(places[0]) if places else ROOT / "dist", fast="--fast" in words))  # noqa: T201
