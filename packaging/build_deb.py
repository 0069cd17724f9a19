#!/usr/bin/env python3
"""Builds the Debian package: `python packaging/build_deb.py [OUT]`, with dpkg-deb and the wheel.

What the programs import is taken as it is installed in this virtual environment, which is locked
by hashes; so nothing is fetched. The package has an environment of its own in /usr/lib/descartesd.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
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
CONTROL = """Package: descartesd
Version: {version}
Architecture: {architecture}
Maintainer: descartesd maintainers <maintainers@descartesd.invalid>
Installed-Size: {size}
Depends: python3 (>= {python}), python3 (<< {next_python}), libc6, libstdc++6, systemd (>= 252)
Section: admin
Priority: optional
Description: daemon that starts, supervises and controls agent processes
 It gives many clients fleets of agent processes over encrypted ZeroMQ:
 spawn, output, pause, restarts, limits, queues, roles and an audit log.
 A crash or an upgrade of the daemon touches no agent.
"""
PROGRAM = """#!/{home}/bin/python3
import sys

from {module} import main

sys.exit(main())
"""


def main(out: Path, *, fast: bool = False) -> Path:
    """Build the package into a directory, larger than it has to be if `fast`; its path."""
    version = metadata.version("descartesd")
    architecture = _told("dpkg", "--print-architecture")
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dsc-deb-") as work:
        tree = Path(work) / "tree"
        _environment(tree, Path(work))
        _system(tree)
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


def _environment(tree: Path, work: Path) -> None:
    """An environment as venv makes it, on Debian's own interpreter."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tree / HOME / "lib" / python / "site-packages"
    packages.mkdir(parents=True)
    for name in _needed("descartesd", {"cli"}) - {"descartesd"}:
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
    (binaries / "python3").symlink_to("/usr/bin/python3")
    (tree / HOME / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python[6:]}\n"
    )
    (tree / "usr/bin").mkdir()
    for name, module in PROGRAMS.items():
        (binaries / name).write_text(PROGRAM.format(home=HOME, module=module))
        (tree / "usr/bin" / name).symlink_to(f"../lib/descartesd/bin/{name}")


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
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file.locate(), target)


def _system(tree: Path) -> None:
    units = tree / "usr/lib/systemd/system"
    docs = tree / "usr/share/doc/descartesd"
    targets = {
        "systemd/descartesd.service": units,
        "systemd/descartes-keeper.service": units,
        "systemd/descartes-agents.slice": units,
        "systemd/descartesd.sysusers": tree / "usr/lib/sysusers.d/descartesd.conf",
        "systemd/descartesd.tmpfiles": tree / "usr/lib/tmpfiles.d/descartesd.conf",
        "packaging/deb/descartesd.toml": tree / "etc/descartesd/descartesd.toml",
        "systemd/descartesd.socket": docs / "examples",
        "systemd/drop-ins": docs / "examples/drop-ins",
        "README.md": docs,
        "SECURITY.md": docs,
        "docs/reference/configuration.md": docs,
        "LICENSE": docs / "copyright",
    }
    units.mkdir(parents=True)
    (docs / "examples").mkdir(parents=True)
    for source, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target)
        else:
            shutil.copy(ROOT / source, target)
    (tree / "etc/descartesd/keys").mkdir(mode=0o700)
    with gzip.GzipFile(docs / "changelog.gz", "wb", mtime=0) as file:
        file.write((ROOT / "CHANGELOG.md").read_bytes())


def _control(tree: Path, version: str, architecture: str) -> None:
    control = tree / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    minor = sys.version_info.minor
    text = CONTROL.format(
        version=version,
        architecture=architecture,
        size=sum(path.stat().st_size for path in files) // 1024,
        python=f"3.{minor}",
        next_python=f"3.{minor + 1}",
    )
    (control / "control").write_text(text)
    (control / "conffiles").write_text("/etc/descartesd/descartesd.toml\n")
    sums = (
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        f"  {path.relative_to(tree)}\n"
        for path in files
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
