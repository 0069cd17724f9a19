"""What the documentation shows is what happens: its commands and programs are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import session
from tests.docs.pages import INSTALLING, PAGES, ROOT, blocks, languages, name_of, steps
from tests.support.server import Server, free_port

HERE = [page for page in PAGES if page not in INSTALLING]
WITH_COMMANDS = [page for page in HERE if steps(page)]
WITH_PROGRAMS = [page for page in HERE if blocks(page, "python")]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a Unix socket's is limited to 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="dsc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def _environ() -> dict[str, str]:
    kept = ("LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"COLUMNS": "120"}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_of_a_page_do_what_it_shows(
    page: Path, directory: Path, shared_server: Server
) -> None:
    environ = _environ()
    commands = steps(page)
    # A page that makes no server is about one the reader has.
    if not any(step.command.startswith("descartesd init") for step in commands):
        (directory / "fleet").symlink_to(shared_server.directory)
        environ["DESCARTES_PROFILE"] = "fleet/profiles/local.toml"

    faults = session.run(commands, directory, free_port(), environ)

    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=name_of)
def test_program_of_a_page_runs(page: Path, directory: Path, shared_server: Server) -> None:
    (directory / "fleet").symlink_to(shared_server.directory)
    # The blocks of a page are one program.
    program = "\n".join(text for _, text in blocks(page, "python"))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, "fleet/profiles/admin.toml"],
        cwd=directory,
        env=_environ(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    promised = re.findall(r"^ *print\(.*\)  # (.+)$", program, re.MULTILINE)
    printed = iter(done.stdout.splitlines())
    assert [line for line in promised if line not in printed] == []


def test_client_of_the_protocol_page_needs_forty_lines_and_no_code_of_ours() -> None:
    [(_, program)] = blocks(ROOT / "docs/reference/protocol.md", "python")

    imported = re.findall(r"^(?:import|from) (.+)$", program, re.MULTILINE)
    assert imported == ["itertools, sys, tomllib, uuid", "msgpack, zmq"]
    assert len([line for line in program.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_is_of_a_kind_that_is_checked(page: Path) -> None:
    assert languages(page) <= {"console", "python", "text", "toml"}


def test_shown_lines_match_by_kind() -> None:
    shown = ("ID  AGE  PID", "06at3k9v2m4q8r5s7t1u  2m05s  4242  x…z", "…", "end")

    assert session.matches(shown, "ID AGE PID\n0123456789abcdefghij 7s 31 x--z\na\nb\nend\n")
    assert not session.matches(shown, "ID AGE PID\n0123456789abcdefghij 7s 31 x--y\nend\n")
    assert not session.matches(shown, "ID AGE PID\n0123456789abcdefghij 7s 31 x--z\nend\nmore\n")
