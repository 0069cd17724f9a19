"""Whole lines of an agent's output: all of them, or those a regular expression is found in.

The only module that imports re2: a pattern comes from a client, and RE2 takes linear time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from descartesd.agents.output import Piece
from descartesd.errors import InvalidArgumentError

SEARCHED_MAX = 8 * 1024 * 1024
SEARCHED_S = 1.0
FOUND_MAX = 10_000
_WINDOW = 65_536
# Bounds the size of a program, and with it the time a byte may take; re2 keeps the last 128.
_REGEX_MEMORY = 256 * 1024

Search = Callable[[bytes], bool]
Read = Callable[[int, int], Piece]


def search_for(regex: str) -> Search:
    """Make a function that tells whether the RE2 expression is found in a line.

    A line is text in UTF-8; a byte that is not counts as U+FFFD, and the newline does not count.
    Raises InvalidArgumentError.
    """
    import re2  # noqa: PLC0415  # start-up time

    options = re2.Options()
    options.max_mem = _REGEX_MEMORY
    options.never_capture = True
    options.log_errors = False
    try:
        search = re2.compile(regex, options).search
    except re2.error as exc:
        words = exc.args[0].decode(errors="replace")
        raise InvalidArgumentError(
            f"regex: {words}", hint="see https://github.com/google/re2/wiki/Syntax"
        ) from exc

    def is_found(line: bytes) -> bool:
        text = line.removesuffix(b"\n")
        if not text.isascii():
            text = text.decode(errors="replace").encode()
        return search(text) is not None

    return is_found


@dataclass(frozen=True, slots=True)
class Wanted:
    """At most `limit` bytes of lines; a line longer than that counts as several."""

    limit: int
    count: int = FOUND_MAX
    is_found: Search | None = None


@dataclass(slots=True)
class Page:
    """Lines told of what lies between two offsets; `starts` has (place in data, offset) of each."""

    offset: int
    next_offset: int
    data: bytearray = field(default_factory=bytearray)
    starts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, piece: Piece, wanted: Wanted, *, is_last: bool, until: float) -> bool:
        """Take the whole lines of a piece; False when the page is full or `until` has come."""
        for start, end in split(piece.data, wanted.limit, is_last=is_last):
            line = piece.data[start:end]
            if wanted.is_found is None or wanted.is_found(line):
                if len(self.data) + len(line) > wanted.limit:
                    return False
                self.starts.append((len(self.data), piece.offset + start))
                self.data += line
            self.next_offset = piece.offset + end
            if len(self.starts) == wanted.count or time.monotonic() >= until:
                return False
        return True


def read_lines(read: Read, offset: int, wanted: Wanted, *, complete: bool) -> tuple[Page, Piece]:
    """The next page of lines from `offset` on, and the piece that was read last.

    `complete` means that the stream has ended: then its last line needs no newline. A page ends
    after 8 MiB or a second of searching at the latest.
    """
    window = max(_WINDOW, 2 * wanted.limit)
    until = time.monotonic() + SEARCHED_S
    piece = read(offset, window)
    page = Page(piece.offset, piece.offset)
    # What retention dropped meanwhile is for the next page to tell.
    while piece.data and piece.offset == page.next_offset:
        end = piece.offset + len(piece.data)
        is_end = end >= piece.total
        goes_on = page.add(piece, wanted, is_last=complete and is_end, until=until)
        searched = page.next_offset - page.offset
        if is_end or not goes_on or searched + window > SEARCHED_MAX:
            break
        piece = read(page.next_offset, window)
    return page, piece


def split(data: bytes, limit: int, *, is_last: bool) -> Iterator[tuple[int, int]]:
    """Begin and end of each whole line, newline included, cut every `limit` bytes.

    What is left without a newline is a line when `is_last`.
    """
    at = 0
    while at < len(data):
        end = data.find(b"\n", at, at + limit) + 1
        if end == 0:
            end = min(at + limit, len(data))
            if end - at < limit and not is_last:
                return
        yield at, end
        at = end
