"""The manual pages say what the programs, the schema and the reference pages say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from descartesd.config.leaves import leaves
from descartesd.ctl.command import NOUNS, SINGLE
from descartesd.errors import ERRORS
from descartesd.keeper.main import OPTIONS
from tests.docs.pages import ROOT

PAGES = ("descartes-keeper.8", "descartesctl.1", "descartesd.8", "descartesd.toml.5")
each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "packaging/manuals.py", out], check=True)
    return out


def text(page: Path) -> str:
    """The page as it is read, in lines that are not broken."""
    done = subprocess.run(
        ["mandoc", "-Tutf8", "-Owidth=1000", page], capture_output=True, text=True, check=True
    )
    return re.sub(".\b", "", done.stdout)


needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")


def test_each_program_and_the_configuration_have_a_page(manuals: Path) -> None:
    assert sorted(path.name for path in manuals.iterdir()) == list(PAGES)


@needs_mandoc
@each_page
def test_page_is_written_as_manual_pages_are(page: str, manuals: Path) -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", manuals / page],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "")
    shown = text(manuals / page)
    assert "`" not in shown
    assert "](" not in shown
    assert not re.search(r"^ *\|", shown, re.MULTILINE)


@needs_mandoc
def test_page_of_the_client_has_every_command_and_every_error(manuals: Path) -> None:
    shown = text(manuals / "descartesctl.1")

    titles = [f"{noun} {verb}" for noun in NOUNS for verb in NOUNS[noun].verbs]
    assert [title for title in [*titles, *SINGLE] if f"\n   {title}\n" not in shown] == []
    assert [code for code in ERRORS if code not in shown.partition("EXIT STATUS")[2]] == []
    assert "--wait-for-server S" in shown


@needs_mandoc
def test_page_of_the_configuration_has_every_setting(manuals: Path) -> None:
    shown = text(manuals / "descartesd.toml.5")

    for leaf in leaves().values():
        assert leaf.key.rpartition(".")[2] in shown
        assert " ".join(leaf.description.split()) in " ".join(shown.split()), leaf.key


@needs_mandoc
def test_pages_of_the_servers_have_their_options(manuals: Path) -> None:
    keeper, daemon = text(manuals / "descartes-keeper.8"), text(manuals / "descartesd.8")

    assert [option for option in OPTIONS if f"       {option}\n" not in keeper] == []
    assert "--check-config" in daemon
    assert "/var/lib/descartesd/keys" in daemon
