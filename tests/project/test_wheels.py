"""The wheels, of the core and of every plugin, in an environment made for them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.support.fresh import Fresh

PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
NAMES = [path.name.removeprefix("descartesd-") for path in PLUGINS]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    made = Fresh(tmp_path_factory.mktemp("fresh"))
    for project in (ROOT, *PLUGINS):
        made.build(project)
    made.pip("install", *sorted(made.wheels.iterdir()))
    return made


def run(fresh: Fresh, *words: str | Path) -> str:
    asked = [fresh.programs / words[0], *words[1:]]
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(asked, cwd="/", env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_project_has_a_wheel(fresh: Fresh) -> None:
    built = {path.name.partition("-")[0] for path in fresh.wheels.iterdir()}

    assert built == {"descartesd", *(path.name.replace("-", "_") for path in PLUGINS)}
    assert len(PLUGINS) >= 5


def test_installed_programs_are_those_of_the_wheel(fresh: Fresh) -> None:
    version = run(fresh, "descartesd", "--version").split()

    assert run(fresh, "descartesctl", "--version").split() == ["descartesctl", version[1]]
    where = "import descartesd; print(descartesd.__file__)"
    assert run(fresh, "python", "-c", where).startswith(str(fresh.directory))


def test_directory_is_made_and_its_configuration_holds_with_every_plugin(
    fresh: Fresh, tmp_path: Path
) -> None:
    run(fresh, "descartesd", "init", tmp_path / "s")
    config = tmp_path / "s" / "descartesd.toml"
    run(fresh, "descartesd", "--config", config, "--check-config")

    # Some have settings without a default.
    settings = {
        "plugins": f"enabled = {json.dumps(NAMES)}",
        "plugins.worktree": f'roots = ["{tmp_path}"]\ndirectory = "{tmp_path}/trees"',
        "plugins.webhook-auth": 'url = "http://127.0.0.1:9/"',
    }
    with config.open("a") as file:
        file.writelines(f"\n[{name}]\n{text}\n" for name, text in settings.items())
    run(fresh, "descartesd", "--config", config, "--check-config")

    checked = [run(fresh, "descartesctl", "plugin", "check", each, "--config", config)
               for each in NAMES]  # fmt: skip
    assert [text for text in checked if "✓ load" not in text and "✓ settings" not in text] == []
