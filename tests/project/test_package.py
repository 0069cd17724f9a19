"""The Debian package as it is built, looked at without installing it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

MANUALS = ("man1/descartesctl.1", "man5/descartesd.toml.5", "man8/descartesd.8",
           "man8/descartes-keeper.8")  # fmt: skip
COMPLETIONS = (
    "bash-completion/completions/descartesctl",
    "zsh/vendor-completions/_descartesctl",
    "fish/vendor_completions.d/descartesctl.fish",
)
pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    building = [sys.executable, ROOT / "packaging/build_deb.py", out, "--fast"]
    subprocess.run(building, check=True, stdout=subprocess.PIPE)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def content(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("content") / "tree"
    subprocess.run(["dpkg-deb", "-R", package, out], check=True)
    return out


def field(package: Path, name: str) -> str:
    asking = ["dpkg-deb", "--field", package, name]
    return subprocess.run(asking, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("lintian") is None, reason="needs lintian")
def test_lintian_has_nothing_against_it(package: Path) -> None:
    checking = ["lintian", "--fail-on", "error,warning", "--allow-root", package]
    done = subprocess.run(checking, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_override_of_lintian_has_its_reason() -> None:
    lines = (ROOT / "packaging/deb/lintian-overrides").read_text().splitlines()

    assert [line for before, line in zip(["", *lines], lines, strict=False)
            if not line.startswith("#") and not before.startswith("#")] == []  # fmt: skip


def test_it_depends_on_the_python_it_was_built_with(package: Path) -> None:
    minor = sys.version_info.minor

    depends = " ".join(field(package, "Depends").split()).split(", ")
    assert {f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1}~)"} <= set(depends)


def test_it_has_manuals_and_completions_where_they_are_looked_for(content: Path) -> None:
    share = content / "usr/share"

    assert [name for name in MANUALS if not (share / f"man/{name}.gz").is_file()] == []
    for name, marker in zip(COMPLETIONS, ("complete -F", "#compdef", "complete -c"), strict=True):
        assert marker in (share / name).read_text()


def test_nothing_in_it_is_somebodys(package: Path) -> None:
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True)
    made = package.parent / "data.tar"
    made.write_bytes(data.stdout)
    with tarfile.open(made) as archive:
        members = archive.getmembers()

    made.unlink()
    assert {(each.uid, each.gid) for each in members} == {(0, 0)}
    assert [each.name for each in members if each.mode & 0o022 and not each.issym()] == []


def test_whoever_builds_it_may_be_named(tmp_path: Path) -> None:
    building = [sys.executable, ROOT / "packaging/build_deb.py", tmp_path, "--fast"]
    named = {"DEBFULLNAME": "Example Operations", "DEBEMAIL": "ops@example.com"}
    environ = {"PATH": "/usr/bin:/bin", **named}
    subprocess.run(building, check=True, stdout=subprocess.PIPE, env=environ)

    (made,) = tmp_path.iterdir()
    assert field(made, "Maintainer") == "Example Operations <ops@example.com>"


def test_licenses_of_the_libraries_are_in_it(content: Path) -> None:
    notices = (content / "usr/share/doc/descartesd/copyright").read_text()

    libraries = content.glob("usr/lib/descartesd/lib/python3.*/site-packages/*.dist-info")
    names = [path.name.partition("-")[0].replace("_", "-").lower() for path in libraries]
    heads = [line.partition(" ")[0].replace("_", "-").lower() for line in notices.splitlines()]
    assert len(names) > 10
    assert [name for name in names if name not in heads] == []
    assert "Mozilla Public License" in notices
