"""What the Debian package has beside the programs: units, configuration, documentation."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import manuals
from deb_texts import changelog, copyright_notices

ROOT = Path(__file__).parents[1]
# Where each shell looks for the completion of a program.
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/descartesctl",
    "zsh": "usr/share/zsh/vendor-completions/_descartesctl",
    "fish": "usr/share/fish/vendor_completions.d/descartesctl.fish",
}


def files(tree: Path, version: str) -> None:
    """Put them where Debian has them; `version` is the package's."""
    _copies(tree)
    docs = tree / "usr/share/doc/descartesd"
    (docs / "copyright").write_text(copyright_notices(), encoding="utf-8")
    _compressed(docs / "changelog", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    _compressed(docs / "changelog.Debian", changelog(version))
    for name, text in manuals.pages().items():
        _compressed(tree / f"usr/share/man/man{name[-1]}/{name}", text)
    for shell, place in COMPLETIONS.items():
        (tree / place).parent.mkdir(parents=True)
        (tree / place).write_bytes(_completion(shell))


def _copies(tree: Path) -> None:
    units = tree / "usr/lib/systemd/system"
    docs = tree / "usr/share/doc/descartesd"
    targets = {
        "systemd/descartesd.service": units,
        "systemd/descartes-keeper.service": units,
        "systemd/descartes-agents.slice": units,
        "systemd/descartesd.sysusers": tree / "usr/lib/sysusers.d/descartesd.conf",
        "systemd/descartesd.tmpfiles": tree / "usr/lib/tmpfiles.d/descartesd.conf",
        "packaging/deb/descartesd.toml": tree / "etc/descartesd/descartesd.toml",
        "packaging/deb/lintian-overrides": tree / "usr/share/lintian/overrides/descartesd",
        "systemd/descartesd.socket": docs / "examples",
        "systemd/drop-ins": docs / "examples/drop-ins",
        "README.md": docs,
        "SECURITY.md": docs,
        "docs/reference/configuration.md": docs,
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


def _compressed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(f"{path}.gz", "wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode())


def _completion(shell: str) -> bytes:
    asking = [sys.executable, "-m", "descartesd.ctl.main", "completion", shell]
    return subprocess.run(asking, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
