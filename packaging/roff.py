"""Turns the Markdown that the reference pages are written in into manual pages."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

_BLOCK = re.compile(
    r"\n*(?:```\w*\n(?P<code>.*?)^```$|(?P<text>.+?)(?=\n\n|\Z))", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
# Of the text, which the reader's terminal breaks anew.
_WIDTH = 79
_CELLS = re.compile(r"(?<!\\)\|")


def manual(heading: tuple[str, ...], summary: str, chapters: dict[str, str]) -> str:
    """A manual page of chapters of Markdown, which have headings of the second level alone.

    `heading` is what .TH wants: name, section, date, version and the title of the whole.
    """
    name = _plain(heading[0])
    words = (name.upper(), *heading[1:])
    lines = [
        " ".join((".TH", *(f'"{each}"' for each in words))),
        ".SH NAME",
        f"{name} \\- {_plain(summary)}",
    ]
    for title, text in chapters.items():
        lines += [f'.SH "{_plain(title)}"', *_rendered(text)]
    return "\n".join(lines) + "\n"


def _rendered(markdown: str) -> Iterator[str]:
    after_heading = True
    for block in _BLOCK.finditer(_COMMENT.sub("", markdown)):
        code, text = block["code"], (block["text"] or "").rstrip("\n")
        if code is not None:
            yield from () if after_heading else (".P",)
            yield from (".EX", *map(_line, code.splitlines()), ".EE")
        elif text.startswith("## "):
            # A list right below it is a block of its own.
            title, _, rest = text.partition("\n")
            yield f'.SS "{_plain(title[3:])}"'
            yield from _block(rest, after_heading=True) if rest else ()
        elif text:
            yield from _block(text, after_heading=after_heading)
        after_heading = text.startswith("## ") and "\n" not in text


def _block(text: str, *, after_heading: bool) -> Iterator[str]:
    lines = text.splitlines()
    if lines[0].startswith("|"):
        yield from _table(lines)
        return
    if not lines[0].startswith("- ") and not after_heading:
        yield ".P"
    for line in lines:
        if line.startswith("- "):
            yield ".IP \\(bu 2"
        yield from _inline(line.removeprefix("- ").lstrip())


def _table(lines: list[str]) -> Iterator[str]:
    """The first column is what it is about, the last what it means; the others stand between."""
    headers = _row(lines[0])
    for line in lines[2:]:
        first, *between, last = _row(line)
        told = (
            value if header == "value" else f"{header} {value}"
            for header, value in zip(headers[1:-1], between, strict=True)
            if value
        )
        yield ".TP"
        yield from _inline(" ".join([first, *(f"({each})" for each in ["; ".join(told)] if each)]))
        yield from _inline(last) if last else ("\\&",)


def _row(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELLS.split(line.strip())[1:-1]]


def _inline(text: str, width: int = _WIDTH) -> Iterator[str]:
    """Lines of a paragraph: what is code becomes bold, of a link its words are left."""
    words, *rest = _LINK.sub(r"\1", text).split("`")
    parts = [_plain(words)]
    for number, part in enumerate(rest):
        parts.append(f"\\fB{_plain(part)}\\fR" if number % 2 == 0 else _plain(part))
    wrapped = textwrap.wrap("".join(parts), width, break_long_words=False, break_on_hyphens=False)
    return map(_guarded, wrapped)


def _line(text: str) -> str:
    return _guarded(_plain(text))


def _guarded(line: str) -> str:
    return f"\\&{line}" if line[:1] in (".", "'") else line


def _plain(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    escaped = escaped.replace("^", "\\(ha").replace("~", "\\(ti").replace("'", "\\(aq")
    return "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in escaped)
