#!/usr/bin/env python3
"""Builds the container image: `python packaging/build_image.py [OUT]`, an archive podman loads.

mmdebstrap makes the system in it from Debian's packages, buildah puts it together; neither a
registry nor a daemon is asked. The libraries are those of this virtual environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from deb_environment import HOME, environment
from source_date import source_date

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "packaging" / "container"
# Its Python has to be the one the libraries were compiled for.
SUITE, PYTHON = "bookworm", (3, 11)
PACKAGES = ("ca-certificates", "libstdc++6", "python3", "tini")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
NAME = "localhost/descartesd"
UID, AGENTS_UID = 10001, 10002
# Directories of the server's user; the first two are volumes.
OWN = {"var/lib/descartesd": 0o700, "run/descartes": 0o755, "home/descartesd": 0o700}
_NEEDED = ("mmdebstrap", "buildah")


def main(out: Path) -> Path:
    """Build the image and put its archive into a directory; the archive's path."""
    out.mkdir(parents=True, exist_ok=True)
    version = metadata.version("descartesd")
    made = out / f"descartesd-{version}-container.tar"
    with tempfile.TemporaryDirectory(prefix="dsc-image-") as work:
        context = Path(work) / "context"
        shutil.copytree(RECIPE, context)
        base(context / "base.tar")
        _programs(context / "descartesd.tar", Path(work))
        _build(context, Path(work), version, made)
    return made


def missing() -> list[str]:
    """What has to be there first, in words."""
    wanted = [f"needs {each}" for each in _NEEDED if shutil.which(each) is None]
    if os.geteuid() != 0:
        wanted.append("needs root, to make files of other users")
    if sys.version_info[:2] != PYTHON:
        wanted.append(f"needs Python {PYTHON[0]}.{PYTHON[1]}, which {SUITE} has")
    return wanted


def base(archive: Path) -> None:
    """Make the system in it; DSC_IMAGE_BASE names one that was made before."""
    kept = os.environ.get("DSC_IMAGE_BASE")
    if kept and Path(kept).exists():
        shutil.copy(kept, archive)
        return
    made = [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={each}" for each in LEFT_OUT), SUITE, str(archive),
    ]  # fmt: skip
    subprocess.run(made, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": _epoch()})
    if kept:
        shutil.copy(archive, kept)


def _programs(archive: Path, work: Path) -> None:
    tree = work / "tree"
    environment(tree, work)
    config = tree / "etc/descartesd/descartesd.toml"
    config.parent.mkdir(parents=True)
    shutil.copy(RECIPE / "descartesd.toml", config)
    python = tree / HOME / "lib"
    # In a file system that is read only it could never be kept; times are not those of the files.
    compiling = ["compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", tree, python]
    subprocess.run([sys.executable, "-m", *compiling], check=True)
    with tarfile.open(archive, "w") as packed:
        for path in sorted(tree.rglob("*")):
            packed.add(path, path.relative_to(tree), recursive=False, filter=_owned_by_root)
        for name, mode in OWN.items():
            packed.addfile(_directory(name, mode))
        for name, text in _accounts(work).items():
            packed.add(text, f"etc/{name}", filter=_owned_by_root)


def _accounts(work: Path) -> dict[str, Path]:
    """passwd and group of the base with our two users."""
    texts: dict[str, Path] = {}
    with tarfile.open(work / "context" / "base.tar") as archive:
        for name, line in {
            "passwd": "{user}:x:{uid}:{uid}::{home}:/bin/sh\n",
            "group": "{user}:x:{uid}:\n",
        }.items():
            file = archive.extractfile(f"./etc/{name}")
            told = file.read().decode() if file else ""
            texts[name] = work / name
            texts[name].write_text(
                told
                + line.format(user="descartesd", uid=UID, home="/home/descartesd")
                + line.format(user="descartes-agent", uid=AGENTS_UID, home="/tmp")  # noqa: S108
            )
    return texts


def _directory(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, UID, UID
    return entry


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Readable by everybody, changed by root alone, whatever umask it is built under."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = int(_epoch())
    runs = entry.isdir() or Path(entry.name).parent.name == "bin"
    entry.mode = 0o755 if runs else 0o644
    return entry


def _build(context: Path, work: Path, version: str, made: Path) -> None:
    # Storage of its own: nothing is left on this host but the archive.
    storage = ["--root", work / "storage", "--runroot", work / "run", "--storage-driver", "vfs"]
    tag = f"{NAME}:{version}"
    building = ["build", "--quiet", "--format", "docker", "--timestamp", _epoch(), "--tag", tag]
    _buildah(*storage, *building, context)
    made.unlink(missing_ok=True)
    _buildah(*storage, "push", "--quiet", tag, f"docker-archive:{made}:{tag}")


def _buildah(*words: str | Path) -> None:
    subprocess.run(["buildah", *map(str, words)], check=True, stdout=subprocess.DEVNULL)  # noqa: S607  # whichever is in the PATH


def _epoch() -> str:
    return str(int(source_date().timestamp()))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--if-possible"]
    if told := missing():
        sys.stderr.write(f"no container image: {', '.join(told)}\n")
        sys.exit(0 if "--if-possible" in sys.argv else 1)
    print(main(Path(words[0]) if words else ROOT / "dist"))  # noqa: T201
