"""The files of the container's system: made once from Debian's packages, then kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
PACKAGES: Final = ("dbus", "procps", "python3", "systemd", "systemd-sysv")
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")


def tree() -> Path:
    """The kept tree, made now if there is none of these packages; that takes about a minute."""
    recipe = "\n".join((SUITE, *PACKAGES, *LEFT_OUT))
    name = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "descartesd"
    made = cache / f"container-{name}"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Half a tree is no tree.
        begun = made.with_suffix(f".{os.getpid()}")
        try:
            _make(begun)
            begun.rename(made)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return made


def _make(path: Path) -> None:
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude={each}" for each in LEFT_OUT), SUITE, path,
        ],
        check=True,
    )  # fmt: skip
