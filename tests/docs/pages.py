"""The pages of the documentation and the blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

# Their commands install something: they are run in an environment of their own.
INSTALLING = [
    ROOT / "docs" / page
    for page in (
        "tutorial/first-plugin.md",
        "how-to/keep-agents-in-worktrees.md",
        "how-to/ask-a-policy-service.md",
    )
]

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One command of a page and the lines the page shows for it."""

    line: int
    command: str
    shown: tuple[str, ...]


def name_of(page: Path) -> str:
    """What a page is called in the name of a test."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Every fenced block in a language, with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start()) + 2, found["text"])
        for found in _FENCE.finditer(text)
        if found["language"] == language
    ]


def languages(page: Path) -> set[str]:
    """The languages of the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return {found["language"] for found in _FENCE.finditer(text)}


_FILE = re.compile(
    r"^`(?P<path>[\w./-]+)`[^\n]*:\n\n```\w+\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def files(page: Path) -> dict[str, str]:
    """The blocks that are files: their path stands in a line before that begins with it."""
    text = page.read_text(encoding="utf-8")
    return {found["path"]: found["text"] for found in _FILE.finditer(text)}


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def steps(page: Path) -> list[Step]:
    """The commands of a page, from its top to its bottom: one session."""
    return [step for first, text in blocks(page, "console") for step in _steps(first, text)]


def _steps(first: int, text: str) -> Iterator[Step]:
    command: list[str] = []
    shown: list[str] = []
    at = first
    for number, line in enumerate(text.splitlines(), first):
        if line.startswith("$ "):
            if command:
                yield Step(at, "\n".join(command), tuple(shown))
            command, shown, at = [line[2:]], [], number
        elif line.startswith("> ") and not shown:
            command.append(line[2:])
        else:
            shown.append(line)
    if command:
        yield Step(at, "\n".join(command), tuple(shown))
