"""Pages that install something are followed in a virtual environment made for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import session
from tests.docs.pages import INSTALLING, ROOT, files, name_of, steps
from tests.support.fresh import Fresh
from tests.support.server import free_port

PLUGINS = ROOT / "plugins"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    made = Fresh(tmp_path_factory.mktemp("fresh"))
    for name in ("descartesd-worktree", "descartesd-webhook-auth"):
        made.build(PLUGINS / name)
    made.build(ROOT)
    made.pip("install", "descartesd")
    return made


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a Unix socket's is limited to 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="dsc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("page", INSTALLING, ids=name_of)
def test_page_that_installs_something_does_what_it_shows(
    page: Path, directory: Path, fresh: Fresh
) -> None:
    for path, text in files(page).items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)

    environ = {**fresh.environ, "COLUMNS": "120"}
    faults = session.run(steps(page), directory, free_port(), environ, fresh.programs)

    assert not faults, "\n\n".join(faults)


def test_copy_of_the_template_is_a_plugin_of_its_own(directory: Path, fresh: Fresh) -> None:
    readme = (PLUGINS / "descartesd-template" / "README.md").read_text()
    commands = readme.split("```text\n")[1].split("```")[0]
    (directory / "plugins").mkdir()
    shutil.copytree(PLUGINS / "descartesd-template", directory / "plugins/descartesd-template")
    subprocess.run(["sh", "-e", "-c", commands], cwd=directory, check=True)
    fresh.pip("install", "--no-build-isolation", directory / "descartesd-mine")

    checked = subprocess.run(
        [fresh.programs / "descartesctl", "plugin", "check", "mine"],
        capture_output=True,
        text=True,
        check=False,
    )
    tested = subprocess.run(
        [fresh.programs / "python", "-m", "pytest", "-q", directory / "descartesd-mine"],
        cwd=directory,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert tested.returncode == 0, tested.stdout
    assert "5 passed" in tested.stdout
