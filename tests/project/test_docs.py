"""The documentation speaks of what exists: files, methods, settings, words and commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.agents.lifecycle import TRANSITIONS
from descartesd.config.leaves import leaves
from descartesd.ctl.command import GLOBAL_FLAGS, GLOBAL_VALUES, NOUNS, SINGLE
from descartesd.errors import ERRORS
from descartesd.hooks.checks import SPECS
from descartesd.wire.methods import METHODS
from tests.docs.pages import PAGES, ROOT, name_of, prose

SOURCE = "\n".join(
    path.read_text()
    for folder in ("descartesd", "plugins")
    for path in (ROOT / folder).rglob("*.py")
)
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
WORDS = {*re.findall(r"\w+", SOURCE), *re.findall(r"def (test_\w+)", TESTS)}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FILES = {
    path.name
    for folder in ("descartesd", "tests", "docs", "packaging", "plugins")
    for path in (ROOT / folder).rglob("*.*")
} | {path.name for path in ROOT.iterdir()}

CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_generated_pages_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "packaging/generate_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@each_page
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if fragment:
            assert fragment in _anchors(linked), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w -]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_every_page_can_be_found_from_the_index() -> None:
    reached: set[Path] = set()
    pending = [ROOT / "docs/index.md", ROOT / "README.md"]
    while pending:
        page = pending.pop()
        if page.suffix != ".md" or page in reached:
            continue
        reached.add(page)
        pending += [
            (page.parent / target.partition("#")[0]).resolve()
            for target in LINK.findall(prose(page))
            if not target.startswith("https://")
        ]

    assert set(PAGES) <= reached


@each_page
def test_dotted_words_of_a_page_are_methods_settings_events_or_files(page: Path) -> None:
    known = {*METHODS, *leaves(), *FILES}
    for word in _words(page, r"[a-z]\w*(?:\.[a-z]\w*)+"):
        assert word in known or f'"{word}"' in SOURCE or _is_field(word), word


def _is_field(word: str) -> bool:
    """`outcome.leftovers`: fields inside fields."""
    return all(part in WORDS for part in word.split("."))


@each_page
def test_names_of_a_page_are_names_of_the_code(page: Path) -> None:
    for word in _words(page, r"[a-z]+(?:_[a-z]+)+"):
        assert word in WORDS, word


@each_page
def test_commands_named_in_a_page_exist(page: Path) -> None:
    for code in CODE.findall(prose(page)):
        if code.startswith("make "):
            assert set(code.split()[1:]) <= TARGETS, code
        if code.startswith("descartesctl "):
            _check_command(code)


def _check_command(code: str) -> None:
    words = list(_without_globals(shlex.split(code.replace("…", ""))[1:]))
    if not words:
        return
    noun, *rest = words
    if noun in SINGLE:
        return
    assert noun in NOUNS, code
    if rest and not rest[0].startswith("-"):
        assert rest[0] in NOUNS[noun].verbs, code


def _without_globals(words: list[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        if word in GLOBAL_VALUES:
            next(left)
        elif word not in GLOBAL_FLAGS:
            yield word


def test_errors_page_has_every_code() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()

    assert [code for code in ERRORS if f"| `{code}` |" not in text] == []


def test_every_hook_has_a_test_and_a_place_in_the_reference() -> None:
    text = (ROOT / "docs/reference/hooks.md").read_text()

    assert [name for name in SPECS if f"### {name}\n" not in text] == []
    assert [name for name in SPECS if f"def test_hook_{name}" not in TESTS] == []


def test_lifecycle_page_explains_every_state() -> None:
    explained = (ROOT / "docs/explanation/lifecycle.md").read_text().partition("## Transitions")[0]

    assert [state for state in TRANSITIONS if f"| `{state}` |" not in explained] == []


def test_architecture_names_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = [path.parent.name for path in (ROOT / "descartesd").glob("*/__init__.py")]

    assert [name for name in packages if f"`{name}/`" not in text] == []


def _words(page: Path, pattern: str) -> list[str]:
    return [code for code in CODE.findall(prose(page)) if re.fullmatch(pattern, code)]
